"""Size and orientation of a JPEG from its segments, up to the first scan.

Reads what the encoders of this world write: marker after marker without filling, one frame of 8 bits and one,
three or four components, whole tables, at most one EXIF block. Several pictures in one file, XMP that turns
the picture, other frames and every slip are left to Pillow.

How nearly all files begin is one pattern, whose segments the walk behind it would step over one by one: that
costs as much as hashing the file.
"""

import re
import struct
from typing import Final

from operators.exif_header import UPRIGHT, read_orientation

Size = tuple[int, int]

_SEGMENT: Final = struct.Struct(">BBH").unpack_from
_TABLE: Final = rb"\xff\xdb\x00\x43[\x00-\x0f].{64}"
_FRAME: Final = rb"\xff[\xc0-\xc2]\x00\x11\x08(.{4})\x03.{9}"
_HUFFMAN: Final = rb"\xff\xc4\x00\x1f.{29}\xff\xc4\x00\xb5.{179}"
_BEGINNING: Final = re.compile(
    rb"\xff\xd8(?:\xff\xe0\x00\x10.{14})?%b(?:%b)?%b(?:%b%b)?(\xff\xda\x00\x0c.{10})?"
    % (_TABLE, _TABLE, _FRAME, _HUFFMAN, _HUFFMAN),
    re.DOTALL,
).match
"""JFIF, one or two quantization tables, a frame of three components, the Huffman tables of the standard, the
scan."""
_HEIGHT_AND_WIDTH: Final = struct.Struct(">HH").unpack
_SCAN: Final = 0xDA
_SCAN_BYTES: Final = 10
"""Of the scan of three components, without its marker and length."""
_TABLES: Final = 0xDB
_ONE_TABLE: Final = 67
"""Length of a segment that holds one table of 8 bits."""
_FRAMES: Final = frozenset({0xC0, 0xC1, 0xC2})
_JFIF: Final = 0xE0
_WHOLE_JFIF: Final = 16
"""Least length of a segment that cannot be a cut one."""
_APP1: Final = 0xE1
_SKIPPED: Final = frozenset({0xC4, 0xDD, 0xFE, *range(0xE3, 0xED), 0xEF})
"""Huffman tables, restart intervals, comments, application data that nobody interprets."""
_EXIF: Final = b"Exif\x00\x00"


def read_jpeg_header(data: bytes) -> tuple[Size, int] | None:
    """Size as stored, and orientation; None where it takes Pillow to tell, or a part is missing."""
    usual = _BEGINNING(data)
    if usual is None:
        return walk_segments(data)
    frame, scan = usual.groups()
    height_px, width_px = _HEIGHT_AND_WIDTH(frame)
    size, end = (width_px, height_px), usual.end()
    if scan is None:
        return walk_segments(data, end, size)
    return (size, UPRIGHT) if _has_end(data, end - _SCAN_BYTES) else None


def walk_segments(data: bytes, offset: int = 2, size: Size | None = None) -> tuple[Size, int] | None:
    """The same, segment by segment from an offset; `size` is what a frame before it told."""
    orientation: int | None = None
    num_bytes = len(data)
    while offset + 4 <= num_bytes:
        prefix, marker, length = _SEGMENT(data, offset)
        start = offset + 4
        offset += 2 + length
        if prefix != 0xFF or length < 2 or offset > num_bytes:
            return None
        if marker == _SCAN:
            return (size, orientation or UPRIGHT) if size and _has_end(data, start) else None
        if (
            marker in _SKIPPED
            or (marker == _JFIF and length >= _WHOLE_JFIF)
            or (marker == _TABLES and length == _ONE_TABLE and data[start] < 0x10)
        ):
            continue
        if marker in _FRAMES:
            if size is not None or (size := _read_frame(data, start, offset)) is None:
                return None
        elif marker == _APP1 and data.startswith(_EXIF, start):
            block = data[start + len(_EXIF) : offset]
            if orientation is not None or (orientation := read_orientation(block)) is None:
                return None
        elif not _is_plain_segment(marker, data[start:offset]):
            return None
    return None


def _has_end(data: bytes, scan: int) -> bool:
    """Whether an end stands behind the beginning of the scan; thumbnails have theirs before it."""
    return data.rfind(b"\xff\xd9") > scan


def _read_frame(data: bytes, start: int, end: int) -> Size | None:
    """Width and height of a frame header of 8 bits; None for any other."""
    if end - start < 6:
        return None
    num_components = data[start + 5]
    if data[start] != 8 or num_components not in (1, 3, 4) or end - start != 6 + 3 * num_components:
        return None
    return data[start + 3] << 8 | data[start + 4], data[start + 1] << 8 | data[start + 2]


def _is_plain_segment(marker: int, segment: bytes) -> bool:
    """Whether a segment changes nothing about size, orientation and number of pictures."""
    match marker:
        case 0xDB:
            return _are_whole_tables(segment)
        case 0xE0:
            return len(segment) >= 14 or not segment.startswith(b"JFIF")
        case 0xE1:
            return b"tiff:Orientation" not in segment
        case 0xE2 if segment.startswith(b"ICC_PROFILE\x00"):
            return len(segment) >= 14
        case 0xE2:
            return not segment.startswith(b"MPF\x00")
        case 0xED:
            return not segment.startswith(b"Photoshop 3.0\x00") or _are_whole_resources(segment)
        case 0xEE:
            return len(segment) >= 12 or not segment.startswith(b"Adobe")
        case _:
            return False


def _are_whole_tables(segment: bytes) -> bool:
    """Whether a segment of quantization tables holds whole ones only."""
    offset = 0
    while offset < len(segment):
        offset += 65 if segment[offset] < 0x10 else 129
    return offset == len(segment)


def _are_whole_resources(segment: bytes) -> bool:
    """Whether Photoshop's resource blocks lie within their segment."""
    offset = 14
    while segment.startswith(b"8BIM", offset):
        if offset + 12 > len(segment):
            return False
        offset += 7 + segment[offset + 6]
        offset += offset & 1
        if offset + 4 > len(segment):
            return False
        offset += 4 + int.from_bytes(segment[offset : offset + 4], "big")
        if offset > len(segment):
            return False
        offset += offset & 1
    return True
