"""The orientation in an EXIF block, where the block is one that leaves no room for doubt.

EXIF is a TIFF directory that cameras, phones and editors write with all kinds of slips. Readers disagree on
what a slip means, and here the one reader that counts is Pillow, which shows the picture later. So this
reads only directories in which every entry is plainly right; of any other it says that it cannot tell, and
the caller asks Pillow.
"""

import struct
from typing import Final

UPRIGHT: Final = 1
"""Also where there is no orientation."""

_ORDERS: Final = {b"II*\x00": "<", b"MM\x00*": ">"}
_LONGS: Final = {order: struct.Struct(f"{order}L") for order in "<>"}
_SHORTS: Final = {order: struct.Struct(f"{order}H") for order in "<>"}
_ENTRIES: Final = {order: struct.Struct(f"{order}HHL4s") for order in "<>"}
_UNIT_BYTES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
_ENTRY_BYTES: Final = 12
_INLINE_BYTES: Final = 4
_ORIENTATION: Final = 0x0112
_SHORT: Final = 3
_PLAIN_TYPES: Final = {_ORIENTATION: (_SHORT, 1), 0x011A: (5, 1), 0x011B: (5, 1), 0x0128: (_SHORT, 1)}
"""Type and count of the tags that decide whether Pillow opens a picture: orientation and resolution."""


def read_orientation(block: bytes) -> int | None:
    """The orientation in a TIFF header and what follows; None where it takes Pillow to tell."""
    order = _ORDERS.get(block[:4])
    if order is None or len(block) < 8:
        return None
    (start,) = _LONGS[order].unpack_from(block, 4)
    if start + 2 > len(block):
        return None
    (num_entries,) = _SHORTS[order].unpack_from(block, start)
    end = start + 2 + _ENTRY_BYTES * num_entries
    if end > len(block):
        return None
    return _scan_entries(block, block[start + 2 : end], order)


def _scan_entries(block: bytes, entries: bytes, order: str) -> int | None:
    found = UPRIGHT
    num_bytes = 0
    last = -1
    for tag, kind, count, value in _ENTRIES[order].iter_unpack(entries):
        size = count * _UNIT_BYTES.get(kind, 0)
        if size == 0 or tag <= last or _PLAIN_TYPES.get(tag, (kind, count)) != (kind, count):
            return None
        last = tag
        if size > _INLINE_BYTES:
            num_bytes += size
            if _LONGS[order].unpack(value)[0] + size > len(block) or num_bytes > len(block):
                return None
        elif tag == _ORIENTATION:
            (found,) = _SHORTS[order].unpack_from(value)
    return found
