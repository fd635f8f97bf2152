"""Annotation files, cut into ranges that workers read by themselves.

Planning reads windows of a few kilobytes, never the data: the separator of the first two rows of a list is
looked for near every place where a range might end, and a newline in JSON lines. So a list's ranges are
guesses. They are proven by reading them: from a boundary on, a range that parses ends at one, and by
induction all do. One that does not raises `RangeBoundaryError`; then it and all that follow in the file are
to be read as one `stream`, in sequence, which needs no guess.

What has to be read in sequence anyway is planned so: gzip, and lists whose rows have no common separator.
"""

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Final

from infra.files import Files
from pipelines.ingest.rows.parquet_input import DAMAGE, ParquetInput
from pipelines.ingest.rows.row_walk import UnbalancedError, find_value_end, learn_separator, skip_space
from pipelines.ingest.rows.text_kind import (
    GZIP_MAGIC,
    HEAD_BYTES,
    PARQUET_MAGIC,
    TextStart,
    tell_text_kind,
)
from schemas.errors import CorruptError

RANGE_BYTES: Final = 32 << 20
PICTURE_BYTES: Final = 256 << 20
_WINDOW_BYTES: Final = 8 << 10
_MAX_WINDOW_BYTES: Final = 1 << 20


class RangeKind(StrEnum):
    """How the rows of a range are read."""

    ARRAY = "array"
    LINES = "lines"
    PARQUET = "parquet"
    STREAM = "stream"


@dataclass(frozen=True, slots=True)
class RowRange:
    """Some rows of a file: bytes of it, from one boundary of rows to another, or row groups of parquet.

    A range that starts at 0 begins with whatever stands before the first row. A stream goes on to the end of
    the file, whatever `end` says.
    """

    kind: RangeKind
    start: int
    end: int


class RangeBoundaryError(CorruptError):
    """A range does not begin and end between two rows."""


def plan_ranges(files: Files, path: str, name: str, range_bytes: int = RANGE_BYTES) -> tuple[RowRange, ...]:
    """Ranges that cover a file, in order.

    Args:
        files: where it lies.
        path: of the file, there.
        name: what errors call it.
        range_bytes: of text, which ranges have about.

    Raises:
        NotFoundError: when there is no such file.
        CorruptError: when it is no annotation file.
    """
    with files.open(path) as file:
        head = file.read(HEAD_BYTES) or b""
        if head.startswith(PARQUET_MAGIC):
            return tuple(_plan_groups(file, name, range_bytes))
        num_bytes = file.seek(0, os.SEEK_END)
        if head.startswith(GZIP_MAGIC):
            return (RowRange(RangeKind.STREAM, 0, num_bytes),)
        start = tell_text_kind(head, name)
        kind = RangeKind(start.kind.value)
        if num_bytes <= range_bytes:
            return (RowRange(kind, 0, num_bytes),)
        separator = b"\n" if kind is RangeKind.LINES else _learn_first_separator(file, start, num_bytes)
        if not separator:
            return (RowRange(RangeKind.STREAM, 0, num_bytes),)
        cuts = list(_find_cuts(file, separator, start.offset, num_bytes, range_bytes))
    bounds = [0, *cuts, num_bytes]
    return tuple(RowRange(kind, *pair) for pair in pairwise(bounds))


def _learn_first_separator(file: io.RawIOBase, start: TextStart, num_bytes: int) -> bytes:
    """The bytes between the first two rows of a list; empty when rows are too long or too unlike."""
    size = HEAD_BYTES
    while True:
        file.seek(start.offset)
        data = file.read(size) or b""
        at = skip_space(data, 0, len(data))
        try:
            row_end = find_value_end(data, at, len(data))
        except UnbalancedError:
            return b""
        separator = learn_separator(data, row_end, len(data)) if row_end > 0 else b""
        if separator or size >= _MAX_WINDOW_BYTES or start.offset + size >= num_bytes:
            return separator
        size *= 4


def _plan_groups(file: io.RawIOBase, name: str, range_bytes: int) -> Iterator[RowRange]:
    """Row groups side by side, up to so much text and `PICTURE_BYTES` of pictures."""
    try:
        groups = ParquetInput(file).groups
    except DAMAGE as error:
        raise CorruptError(f"annotations {name}: damaged parquet: {error}; get the file again") from error
    start = text_bytes = picture_bytes = 0
    for index, group in enumerate(groups):
        text_bytes += group.text_bytes
        picture_bytes += group.picture_bytes
        if index > start and (text_bytes > range_bytes or picture_bytes > PICTURE_BYTES):
            yield RowRange(RangeKind.PARQUET, start, index)
            start, text_bytes, picture_bytes = index, group.text_bytes, group.picture_bytes
    if groups:
        yield RowRange(RangeKind.PARQUET, start, len(groups))


def _find_cuts(
    file: io.RawIOBase, separator: bytes, start: int, num_bytes: int, range_bytes: int
) -> Iterator[int]:
    """Places behind the separators that follow every `range_bytes`, ascending."""
    wanted = start + range_bytes
    within = max(separator.find(b","), 0) + 1
    while wanted < num_bytes:
        found = _find_from(file, separator, wanted)
        if 0 <= found < num_bytes - within:
            yield found + within
            wanted = found
        wanted += range_bytes


def _find_from(file: io.RawIOBase, wanted: bytes, offset: int) -> int:
    size = _WINDOW_BYTES + len(wanted)
    while True:
        file.seek(offset)
        window = file.read(size) or b""
        found = window.find(wanted)
        if found >= 0:
            return offset + found
        if len(window) < size or size > _MAX_WINDOW_BYTES:
            return -1
        size *= 4
