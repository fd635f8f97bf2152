"""Format and size of a picture from its header, at the speed of hashing it.

Pillow opens a small picture in the time that reading and hashing it takes twice over, and for a PNG without
orientation decodes all pixels. Here sound pictures are told by a few dozen bytes. It is a short cut and no
second opinion: a function of this module either reads a header that is plainly right, or says None, and
then `operators.image.read_image_facts` decides, on the facts as on the code of the reject. Left to it are all
rejects, all TIFF, extended WEBP (alpha, EXIF, animation), and every header with anything unusual in it.

One difference is wanted: damage in the pixels of a PNG shows when they are decoded, as in every other format.
"""

import struct
from typing import Final

from operators.image import DEFAULT_IMAGE_POLICY, ImageFacts, ImagePolicy, read_image_facts
from operators.jpeg_header import read_jpeg_header
from operators.png_header import read_png_header
from operators.sniff import BMP, GIF, JPEG, PNG, TIFF, WEBP

Size = tuple[int, int]

_TRANSPOSED: Final = frozenset({5, 6, 7, 8})
_SURE_PIXELS: Final = DEFAULT_IMAGE_POLICY.max_pixels
"""Up to which Pillow opens a picture, whatever the policy allows."""
_GIF_PALETTE: Final = 0x80
_GIF_DISPOSAL: Final = 0x18
"""Set when a frame is to be removed after display: then Pillow prepares for it."""
_WEBP_HEADER: Final = struct.Struct("<4sL4s4sL")


def read_image_header(data: bytes, policy: ImagePolicy = DEFAULT_IMAGE_POLICY) -> ImageFacts:
    """Format and size on display of a picture; the same as `read_image_facts`, faster.

    Raises:
        SampleError: as `read_image_facts`.
    """
    medium_format, read_header = _READERS.get(data[:2], _UNKNOWN)
    found = read_header(data)
    if found is None:
        return read_image_facts(data, policy)
    (width_px, height_px), orientation = found
    short_px, long_px = (width_px, height_px) if width_px < height_px else (height_px, width_px)
    num_pixels = width_px * height_px
    is_within = policy.min_side_px <= short_px and long_px <= policy.max_aspect * short_px
    if not is_within or not 0 < num_pixels <= policy.max_pixels or num_pixels > _SURE_PIXELS:
        return read_image_facts(data, policy)
    if orientation in _TRANSPOSED:
        return ImageFacts(medium_format, height_px, width_px)
    return ImageFacts(medium_format, width_px, height_px)


def _leave_to_pillow(data: bytes) -> None:
    """Of formats that are not read here."""


def _read_gif(data: bytes) -> tuple[Size, int] | None:
    """Up to the first frame, which has to lie within the screen."""
    if len(data) < 13 or not data.startswith((b"GIF87a", b"GIF89a")):
        return None
    width, height = struct.unpack_from("<2H", data, 6)
    offset = 13 + _palette_bytes(data[10])
    while data.startswith(b"!", offset):
        if data.startswith(b"!\xf9\x04", offset) and len(data) > offset + 8:
            if data[offset + 3] & _GIF_DISPOSAL:
                return None
            offset += 8
        elif data.startswith(b"!\xff\x0bNETSCAPE2.0\x03\x01", offset):
            offset += 19
        else:
            return None
        if data[offset - 1 : offset] != b"\0":
            return None
    frame = data[offset : offset + 10]
    if len(frame) < 10 or frame[0] != 0x2C or offset + 10 + _palette_bytes(frame[9]) >= len(data):
        return None
    left, top, frame_width, frame_height = struct.unpack_from("<4H", frame, 1)
    if not (0 < frame_width <= width - left and 0 < frame_height <= height - top):
        return None
    return (width, height), 1


def _palette_bytes(flags: int) -> int:
    return 6 << (flags & 7) if flags & _GIF_PALETTE else 0


def _read_bmp(data: bytes) -> tuple[Size, int] | None:
    """Windows bitmaps of 24 or 32 bits, bottom up, not packed."""
    if len(data) < 54 or data[6:10] != b"\0\0\0\0":
        return None
    header_bytes, width, height, _, bits, packing = struct.unpack_from("<LllHHL", data, 14)
    if header_bytes != 40 or bits not in (24, 32) or packing != 0 or min(width, height) < 1:
        return None
    return (width, height), 1


def _read_webp(data: bytes) -> tuple[Size, int] | None:
    """The two simple layouts: one chunk that fills the file."""
    if len(data) < 32:
        return None
    riff, riff_bytes, form, name, chunk_bytes = _WEBP_HEADER.unpack_from(data)
    if (riff, form) != (b"RIFF", b"WEBP"):
        return None
    if riff_bytes + 8 != len(data) or chunk_bytes + (chunk_bytes & 1) + 20 != len(data):
        return None
    if name == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        is_plain = data[20] == 0x2F and bits >> 29 == 0
        return (((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1), 1) if is_plain else None
    if name != b"VP8 " or data[23:26] != b"\x9d\x01\x2a":
        return None
    bits = int.from_bytes(data[20:23], "little")
    is_shown_key_frame = bits & 1 == 0 and bits >> 1 & 7 <= 3 and bits >> 4 & 1 == 1
    if not is_shown_key_frame or bits >> 5 >= chunk_bytes:
        return None
    width, height = struct.unpack_from("<2H", data, 26)
    return (width & 0x3FFF, height & 0x3FFF), 1


_READERS: Final = {
    b"\xff\xd8": (JPEG, read_jpeg_header),
    b"\x89P": (PNG, read_png_header),
    b"GI": (GIF, _read_gif),
    b"BM": (BMP, _read_bmp),
    b"RI": (WEBP, _read_webp),
}
"""By the first two bytes; each looks at its whole signature."""
_UNKNOWN: Final = (TIFF, _leave_to_pillow)
