"""Whether a file holds all the bytes that its own header promises: told without decoding anything.

A clip that was cut off still plays up to the cut, and no decoder complains. The containers say how long they
are meant to be: MP4 and MOV by their boxes, AVI by its RIFF chunks, Matroska and WebM by the size of their
segment. What streams (MPEG-TS, MPEG-PS, FLV, live Matroska) promises nothing, and a cut does not show.
"""

import io
from collections.abc import Callable
from typing import Final

from operators.sniff import AVI, MKV, MOV, MP4, WEBM, MediumFormat

ByteFile = io.BufferedIOBase | io.RawIOBase
"""Encoded bytes that can be read from any place: `io.BytesIO`, or a file opened for reading bytes."""

_BOXES: Final = frozenset(
    {b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide", b"uuid", b"meta", b"moof", b"mfra",
     b"sidx", b"pnot", b"udta"}
)  # fmt: skip
_SEGMENT: Final = b"\x18\x53\x80\x67"
_CHUNK_HEAD_BYTES: Final = 8
_LONG_BOX_HEAD_BYTES: Final = 16


def count_missing_bytes(file: ByteFile, medium_format: MediumFormat) -> int:
    """How many of the bytes that the file promises are not there; 0 where it promises none."""
    measure = _MEASURES.get(medium_format)
    if measure is None:
        return 0
    num_bytes = file.seek(0, io.SEEK_END)
    return max(0, measure(file, num_bytes) - num_bytes)


def _measure_boxes(file: ByteFile, num_bytes: int) -> int:
    end = 0
    while end < num_bytes:
        head = _read_at(file, end, _LONG_BOX_HEAD_BYTES)
        size, name = int.from_bytes(head[:4], "big"), head[4:8]
        if size == 1:
            size = int.from_bytes(head[8:16], "big")
        if name not in _BOXES or size < _CHUNK_HEAD_BYTES:
            return end  # other bytes behind the last box, or a box that reaches to the end of the file
        end += size
    return end


def _measure_chunks(file: ByteFile, num_bytes: int) -> int:
    end = 0
    while end < num_bytes:
        head = _read_at(file, end, _CHUNK_HEAD_BYTES)
        size = int.from_bytes(head[4:8], "little")
        if head[:4] != b"RIFF" or size == 0:
            return end
        end += _CHUNK_HEAD_BYTES + size
    return end


def _measure_segment(file: ByteFile, num_bytes: int) -> int:
    head = _read_at(file, 0, _LONG_BOX_HEAD_BYTES)
    size, width = _read_element_size(head[4:])
    at = 4 + width + size
    if size < 0 or at >= num_bytes:
        return 0
    head = _read_at(file, at, _LONG_BOX_HEAD_BYTES)
    size, width = _read_element_size(head[4:])
    if head[:4] != _SEGMENT or size < 0:
        return 0
    return at + 4 + width + size


def _read_element_size(data: bytes) -> tuple[int, int]:
    """The size that an EBML element states, or -1 for unknown, and how many bytes the statement takes."""
    if not data or data[0] == 0:
        return -1, 1
    width = 9 - data[0].bit_length()
    mask = (1 << 7 * width) - 1
    size = int.from_bytes(data[:width], "big") & mask
    return (-1 if size == mask else size), width


def _read_at(file: ByteFile, offset: int, num_bytes: int) -> bytes:
    file.seek(offset)
    return file.read(num_bytes) or b""


_MEASURES: Final[dict[MediumFormat, Callable[[ByteFile, int], int]]] = {
    MP4: _measure_boxes,
    MOV: _measure_boxes,
    AVI: _measure_chunks,
    MKV: _measure_segment,
    WEBM: _measure_segment,
}
