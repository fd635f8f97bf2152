"""Damage inside a compressed picture that Pillow passes over, found without a second decoder.

- **JPEG**: where the compressed data end too early but a marker follows (bytes lost in the middle, a file put
  together from two), libjpeg fills the rest with mid-grey and only warns: the rest of the picture, or of the
  interval between two restart markers. Grey alone proves nothing, so such a picture is decoded once more with
  some bytes put in before its markers: of a complete picture they are ignored, in a short one they turn up as
  pixels.
- **PNG**: Pillow stops reading when it has all rows, before any checksum of the data. They are compared here.

Costs a checksum of a PNG's bytes, and a second decoding for the few JPEGs that are grey where the fill would
be. What no checksum covers cannot be seen: flipped bits in a JPEG that stay valid codes, zeros in a BMP.
"""

import io
import re
import struct
import zlib
from typing import Final

import numpy as np
from jaxtyping import Bool
from PIL import Image

_MARKER: Final = re.compile(rb"\xff[\xd0-\xd7\xd9]")
"""Restart and end markers: the only ones inside a scan."""
_RESTART_OR_SCAN: Final = re.compile(rb"\xff[\xd0-\xd7\xda]")
_START_OF_SCAN: Final = b"\xff\xda"
_FIRST_RESTART: Final = 0xD0
_RESTART_INTERVAL: Final = b"\xff\xdd"
_END_OF_IMAGE: Final = b"\xff\xd9"
_CODED_BYTES: Final = bytes(range(16, 144)) * 8
"""Not one of them is 0xFF, so no marker arises."""
_BLOCK_PX: Final = 8
_FILL_LEVEL: Final = 128
_SHINE: Final = 8

_PNG_SIGNATURE_BYTES: Final = 8
_CHUNK_OVERHEAD_BYTES: Final = 12
_CHECKED_CHUNKS: Final = frozenset({b"IHDR", b"PLTE", b"IDAT", b"tRNS"})


def is_jpeg_short(data: bytes, scan_offset: int, decoded: Image.Image) -> bool:
    """Whether the scan at an offset holds less than the picture that was decoded from it."""
    if scan_offset == 0:
        return False  # its segments do not lead to a scan; whatever that is, it decoded
    has_restarts = _RESTART_INTERVAL in data[:scan_offset]
    if not (_ends_in_grey(decoded) or (has_restarts and _has_fill(decoded))):
        return False
    if not _are_restarts_in_turn(data, scan_offset):
        return True
    longer = data[:scan_offset] + _MARKER.sub(_put_codes_before, data[scan_offset:])
    with Image.open(io.BytesIO(longer), formats=("JPEG",)) as again:
        return again.tobytes() != decoded.tobytes()


def _put_codes_before(marker: re.Match[bytes]) -> bytes:
    """Before the end also one of each restart marker, should any be waited for."""
    if marker[0] != _END_OF_IMAGE:
        return _CODED_BYTES + marker[0]
    restarts = (bytes((0xFF, _FIRST_RESTART + number)) + _CODED_BYTES for number in range(8))
    return _CODED_BYTES + b"".join(restarts) + marker[0]


def _are_restarts_in_turn(data: bytes, scan_offset: int) -> bool:
    """In each scan they count from 0 to 7 and over again; where one is missing, so is its interval."""
    expected = 0
    for marker in _RESTART_OR_SCAN.finditer(data, scan_offset, data.find(_END_OF_IMAGE, scan_offset)):
        if marker[0] == _START_OF_SCAN:
            expected = 0
        elif marker[0][1] != _FIRST_RESTART + expected:
            return False
        else:
            expected = (expected + 1) % 8
    return True


def _ends_in_grey(image: Image.Image) -> bool:
    """Whether the last pixel may be fill; colours of the block before may shine in."""
    level = image.getpixel((image.width - 1, image.height - 1))
    channels = level if isinstance(level, tuple) else (level or 0,)
    return all(abs(channel - _FILL_LEVEL) <= _SHINE for channel in channels)


def _has_fill(image: Image.Image) -> bool:
    """Whether a whole block is fill; one pixel of each is looked at first."""
    columns, rows = image.width // _BLOCK_PX, image.height // _BLOCK_PX
    if min(columns, rows) == 0:
        return _ends_in_grey(image)
    covered = (0, 0, columns * _BLOCK_PX, rows * _BLOCK_PX)
    if not _mark_fill(image.resize((columns, rows), Image.Resampling.NEAREST, covered)).any():
        return False
    blocks = _mark_fill(image.crop(covered)).reshape(rows, _BLOCK_PX, columns, _BLOCK_PX)
    return bool(blocks.all(axis=(1, 3)).any())


def _mark_fill(image: Image.Image) -> Bool[np.ndarray, "height width"]:
    """Where pixels are mid-grey, or mid-grey of inverted channels (CMYK)."""
    levels = np.asarray(image, dtype=np.uint8).reshape(image.height, image.width, -1)
    return ((levels == _FILL_LEVEL) | (levels == _FILL_LEVEL - 1)).all(axis=-1)


def find_damaged_chunk(data: bytes) -> str | None:
    """The name of the first PNG chunk that decides pixels and whose checksum is wrong."""
    offset = _PNG_SIGNATURE_BYTES
    view = memoryview(data)
    while offset + _CHUNK_OVERHEAD_BYTES <= len(data):
        num_bytes, name = struct.unpack_from(">I4s", data, offset)
        end = offset + 8 + num_bytes
        if name == b"IEND" or end + 4 > len(data):
            return None
        if name in _CHECKED_CHUNKS and zlib.crc32(view[offset + 4 : end]) != int.from_bytes(
            view[end : end + 4], "big"
        ):
            return name.decode("ascii")
        offset = end + 4
    return None
