"""Size and orientation of a PNG from its chunks, all of them, for an orientation may stand behind the pixels.

Every chunk's checksum is compared, so a picture that was damaged anywhere after it was written is never
plain: whether it can still be decoded, Pillow finds out. Without damage pixels are not decompressed. That
costs 0.4 us a kilobyte; Pillow decodes the whole picture to find the orientation behind it.

Text is plain under the names that the PNG specification registers; any other may be EXIF or XMP in disguise.
Animations are left to Pillow.
"""

import zlib
from struct import Struct
from typing import Final

from operators.exif_header import UPRIGHT, read_orientation

Size = tuple[int, int]

_HEADER: Final = Struct(">8sL4sLLBBBBBL")
_CHUNK: Final = Struct(">L4s")
_END: Final = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_PIXELS: Final = frozenset(
    {(1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (8, 2), (16, 2), (1, 3), (2, 3), (4, 3), (8, 3), (8, 4),
     (16, 4), (8, 6), (16, 6)}
)  # fmt: skip
"""Bits and colour type that go together."""
_PALETTE: Final = 3
_SMALLEST_CHUNK: Final = {
    b"PLTE": 3, b"tRNS": 6, b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"pHYs": 9, b"sBIT": 0, b"bKGD": 0,
    b"hIST": 0, b"tIME": 0, b"iDOT": 0, b"vpAg": 0, b"oFFs": 0, b"caNv": 0, b"orNT": 0, b"IDAT": 0,
}  # fmt: skip
"""Chunks that say nothing about size and orientation, and the bytes that Pillow needs of them."""
_XMP: Final = b"XML:com.adobe.xmp\x00\x00"
"""Not compressed."""
_TEXTS: Final = frozenset(
    {b"Title", b"Author", b"Description", b"Copyright", b"Creation Time", b"Software", b"Disclaimer",
     b"Warning", b"Source", b"Comment", b"date:create", b"date:modify", b"date:timestamp"}
)  # fmt: skip
_MAX_TEXT_BYTES: Final = 1 << 16
_MAX_PROFILE_BYTES: Final = 1 << 20


def read_png_header(data: bytes) -> tuple[Size, int] | None:
    """Size as stored, and orientation; None where it takes Pillow to tell, or a part is missing."""
    if len(data) < _HEADER.size:
        return None
    signature, length, name, width, height, *pixels, packing, filtering, interlace, crc = _HEADER.unpack_from(
        data
    )
    is_plain = (signature, length, name, packing, filtering) == (_SIGNATURE, 13, b"IHDR", 0, 0)
    if not is_plain or tuple(pixels) not in _PIXELS or interlace > 1 or zlib.crc32(data[12:29]) != crc:
        return None
    seen = _scan_chunks(data, pixels[1])
    return None if seen is None else ((width, height), seen)


def _scan_chunks(data: bytes, color_type: int) -> int | None:
    """The orientation, if all chunks to the end are whole and plain."""
    orientation: int | None = None
    names = [b"IHDR"]
    view = memoryview(data)
    offset = _HEADER.size
    while offset + 12 <= len(data):
        length, name = _CHUNK.unpack_from(data, offset)
        if name == b"IEND":
            is_whole = data.startswith(_END, offset) and _are_in_order(names, color_type)
            return (orientation or UPRIGHT) if is_whole else None
        end = offset + 8 + length
        checksum = int.from_bytes(view[end : end + 4], "big")
        if end + 4 > len(data) or zlib.crc32(view[offset + 4 : end]) != checksum:
            return None
        if name == b"eXIf":
            body = data[offset + 8 : end]
            if orientation is not None or (orientation := read_orientation(body)) is None:
                return None
        elif length < _SMALLEST_CHUNK.get(name, 1 << 32) and not _is_plain_chunk(
            name, data[offset + 8 : end], color_type
        ):
            return None
        names.append(name)
        offset = end + 4
    return None


def _are_in_order(names: list[bytes], color_type: int) -> bool:
    """Whether there are pixels, in one row of chunks, and behind their palette where they need one."""
    if b"IDAT" not in names:
        return False
    first = names.index(b"IDAT")
    num_pixel_chunks = names.count(b"IDAT")
    has_colors = color_type != _PALETTE or b"PLTE" in names[:first]
    return has_colors and names[first : first + num_pixel_chunks].count(b"IDAT") == num_pixel_chunks


def _is_plain_chunk(name: bytes, body: bytes, color_type: int) -> bool:
    """Whether a chunk of variable content can change nothing about size and orientation."""
    match name:
        case b"tRNS":
            return color_type == _PALETTE
        case b"tEXt":
            return body.partition(b"\x00")[0] in _TEXTS and len(body) <= _MAX_TEXT_BYTES
        case b"iTXt":
            return body.startswith(_XMP) and b"tiff:Orientation" not in body and len(body) <= _MAX_TEXT_BYTES
        case b"iCCP":
            _, separator, rest = body.partition(b"\x00")
            return bool(separator) and rest[:1] == b"\x00" and _is_bounded(rest[1:])
        case _:
            return False


def _is_bounded(packed: bytes) -> bool:
    """Whether a colour profile unpacks to less than Pillow's limit."""
    unpacker = zlib.decompressobj()
    try:
        unpacker.decompress(packed, _MAX_PROFILE_BYTES)
    except zlib.error:
        return False
    return not unpacker.unconsumed_tail
