"""Rows of a range of an annotation file, in chunks: only scanned, or read.

Scanning counts the rows and decodes some of their fields, passing over the rest at more than twice the speed
of reading; it proves the boundaries of ranges. Reading gives every row as plain values, or the problem that
it has: a row that is balanced but no JSON (NaN, half a surrogate pair, bad UTF-8, a key that stands twice)
costs itself alone, while an unbalanced one is fatal, for where the next row begins would be a guess. Both see
the same rows in the same order.

A chunk keeps the bytes that it was read from, so that a reject can be kept whole. Memory is one chunk,
whatever the size of the file, and of rows up to their limit.
"""

import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from operators.annotations.turns import Spelling
from operators.annotations.usual import Columns
from pipelines.ingest.rows.array_pieces import ArrayCutter
from pipelines.ingest.rows.json_values import NO_JSON, RowDecoder, RowProblem, parse_row
from pipelines.ingest.rows.parquet_rows import read_parquet_rows, scan_parquet_rows
from pipelines.ingest.rows.pieces import Piece, Place, RowsDecoder, cut_lines
from pipelines.ingest.rows.ranges import RangeBoundaryError, RangeKind, RowRange
from pipelines.ingest.rows.text_kind import GZIP_MAGIC, HEAD_BYTES, TextKind, tell_text_kind
from pipelines.ingest.rows.text_source import TextSource, choose_block_bytes
from pipelines.ingest.rows.unpack import UnpackedText
from pipelines.ingest.rows.usual_rows import UsualDecoder
from schemas.errors import ConfigError, CorruptError

DECODED_BYTES: Final = 128 << 10
"""Of text that is decoded at once: what is made of it, ten times as much, stays in the processor's cache."""
SCANNED_BYTES: Final = 256 << 10
"""Less is made of it."""


@dataclass(frozen=True, slots=True)
class ScannedChunk:
    """Some rows, of which only a few fields are known."""

    values: list[tuple[object, ...]]
    """Of the fields asked for, by row; None where a row has none, or is none."""
    raw: Callable[[int], bytes]
    """The bytes of a row."""

    @property
    def num_rows(self) -> int:
        """How many there are."""
        return len(self.values)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some rows as plain values."""

    values: list[object]
    """None for a row that has a problem."""
    raw: Callable[[int], bytes]
    """The bytes of a row."""
    problems: dict[int, RowProblem] = field(default_factory=dict[int, RowProblem])
    """By index in the chunk."""

    @property
    def num_rows(self) -> int:
        """How many there are."""
        return len(self.values)

    def read(self, index: int) -> object | RowProblem:
        """A row, or its problem."""
        return self.problems.get(index) or self.values[index]


@dataclass(frozen=True, slots=True)
class UsualChunk:
    """Some rows as the columns of their fields."""

    columns: Columns
    num_rows: int
    piece: Piece

    def raw(self, index: int) -> bytes:
        """The bytes of a row."""
        return self.piece.raw(index)

    def read(self, index: int) -> object | RowProblem:
        """A row, or its problem; slowly."""
        return parse_row(self.raw(index), self.piece.offset + self.piece.spans[index][0])


def scan_chunks(
    file: io.RawIOBase,
    name: str,
    rows: RowRange,
    first_row: int,
    fields: Sequence[str],
    chunk_bytes: int = SCANNED_BYTES,
) -> Iterator[ScannedChunk]:
    """The rows of a range, as far as some of their top-level fields.

    Args:
        file: the whole file, open.
        name: what errors call it.
        rows: the range.
        first_row: number of its first row in the file, for errors.
        fields: of the rows, which are objects.
        chunk_bytes: of text that is decoded at once.

    Raises:
        RangeBoundaryError: when the range is no stream, and does not begin and end between two rows or is
            broken otherwise: what is wrong shows when it is read as a stream.
        CorruptError: when the file is broken between rows, with row and byte offset.
        ConfigError: when it cannot be read.
    """
    if rows.kind is RangeKind.PARQUET:
        for values, raw in scan_parquet_rows(file, name, rows, fields):
            yield ScannedChunk(values, raw)
        return
    decoder = _FieldDecoder(fields)
    for piece in _cut_range(file, Place(name, first_row), rows, decoder, chunk_bytes):
        yield ScannedChunk(decoder.read_fields(piece), piece.raw)


def read_usual_chunks(
    file: io.RawIOBase,
    name: str,
    rows: RowRange,
    first_row: int,
    spelling: Spelling | None,
    chunk_bytes: int = DECODED_BYTES,
) -> Iterator[Chunk | UsualChunk]:
    """The rows of a range, whole; as columns where they are usual ones with turns in this spelling, if any.

    Args and errors as of `read_chunks`.
    """
    if spelling is None or rows.kind is RangeKind.PARQUET:
        yield from read_chunks(file, name, rows, first_row, chunk_bytes)
        return
    decoder = UsualDecoder(spelling)
    for piece in _cut_range(file, Place(name, first_row), rows, decoder, chunk_bytes):
        columns = decoder.take_columns(piece.values)
        yield _read_piece(piece) if columns is None else UsualChunk(columns, piece.num_rows, piece)


def read_chunks(
    file: io.RawIOBase, name: str, rows: RowRange, first_row: int, chunk_bytes: int = DECODED_BYTES
) -> Iterator[Chunk]:
    """The rows of a range, whole.

    Args:
        file: the whole file, open.
        name: what errors call it.
        rows: the range.
        first_row: number of its first row in the file, for errors.
        chunk_bytes: of text that is decoded at once.

    Raises:
        RangeBoundaryError: as `scan_chunks`.
        CorruptError: as `scan_chunks`.
        ConfigError: as `scan_chunks`.
    """
    if rows.kind is RangeKind.PARQUET:
        for batch in read_parquet_rows(file, name, rows):
            yield Chunk(batch.values, batch.raw, batch.problems)
        return
    decoder = RowDecoder()
    for piece in _cut_range(file, Place(name, first_row), rows, decoder, chunk_bytes):
        yield _read_piece(piece)


def _read_piece(piece: Piece) -> Chunk:
    if piece.values is not None:
        return Chunk(piece.values, piece.raw)
    values: list[object] = []
    problems: dict[int, RowProblem] = {}
    for index, (start, _) in enumerate(piece.spans):
        value = parse_row(piece.raw(index), piece.offset + start)
        if isinstance(value, RowProblem):
            problems[index] = value
            value = None
        values.append(value)
    return Chunk(values, piece.raw, problems)


class _FieldDecoder:
    """Decodes some fields of objects."""

    def __init__(self, fields: Sequence[str]) -> None:
        names = [f"field_{index}" for index in range(len(fields))]
        row = msgspec.defstruct(
            "Row",
            [(name, object, None) for name in names],
            rename=dict(zip(names, fields, strict=True)),
            gc=False,
        )
        self._nothing = (None,) * len(fields)
        self._row = msgspec.json.Decoder(row)
        self._list = msgspec.json.Decoder(list[row])

    def decode_list(self, text: memoryview) -> list[Any]:
        """See `RowsDecoder`."""
        return self._list.decode(text)

    def decode_lines(self, text: memoryview) -> list[Any]:
        """See `RowsDecoder`."""
        return self._row.decode_lines(text)

    def read_fields(self, piece: Piece) -> list[tuple[object, ...]]:
        """The values of the fields, by row."""
        if piece.values is not None:
            return list(map(msgspec.structs.astuple, piece.values))
        return [self._read_row(piece.raw(index)) for index in range(len(piece.spans))]

    def _read_row(self, raw: bytes) -> tuple[object, ...]:
        try:
            return msgspec.structs.astuple(self._row.decode(raw))
        except NO_JSON:
            return self._nothing


def _cut_range(
    file: io.RawIOBase, place: Place, rows: RowRange, decoder: RowsDecoder, chunk_bytes: int
) -> Iterator[Piece]:
    """The pieces of a range."""
    try:
        if rows.kind is RangeKind.STREAM:
            yield from _cut_stream(file, place, rows.start, decoder, chunk_bytes)
        else:
            yield from _cut_between(file, place, rows, TextKind(rows.kind.value), decoder, chunk_bytes)
    except CorruptError as error:
        if rows.kind is RangeKind.STREAM:
            raise
        raise RangeBoundaryError(
            f"annotations {place.name}: bytes {rows.start} to {rows.end} are no whole rows; if the file was "
            f"changed, run the command again ({error})"
        ) from error
    except OSError as error:
        raise ConfigError(f"annotations {place.name}: cannot be read: {error.strerror}") from error


def _cut_stream(
    file: io.RawIOBase, place: Place, start: int, decoder: RowsDecoder, chunk_bytes: int
) -> Iterator[Piece]:
    """The pieces from some boundary of rows to the end of a file, unpacked if it is packed."""
    file.seek(0)
    head = file.read(HEAD_BYTES) or b""
    if not head.startswith(GZIP_MAGIC):
        kind = tell_text_kind(head, place.name).kind
        end = file.seek(0, os.SEEK_END)
        rows = RowRange(RangeKind.STREAM, start, end)
        yield from _cut_between(file, place, rows, kind, decoder, chunk_bytes)
        return
    file.seek(0)
    source = TextSource(UnpackedText(file, place.name))
    unpacked = memoryview(bytearray(HEAD_BYTES))
    held = source.read_into(unpacked)
    first = tell_text_kind(bytes(unpacked[:held]), place.name)
    source.give_back(unpacked[first.offset : held])
    if first.kind is TextKind.LINES:
        yield from cut_lines(source, first.offset, place, decoder, chunk_bytes)
    else:
        cutter = ArrayCutter(source, first.offset, place, decoder, chunk_bytes)
        yield from cutter.cut(is_first=True, is_last=True)


def _cut_between(
    file: io.RawIOBase, place: Place, rows: RowRange, kind: TextKind, decoder: RowsDecoder, chunk_bytes: int
) -> Iterator[Piece]:
    """The pieces of some bytes of a file."""
    start = rows.start
    is_first = start == 0
    if is_first:
        file.seek(0)
        start = tell_text_kind(file.read(HEAD_BYTES) or b"", place.name).offset
    is_last = file.seek(0, os.SEEK_END) == rows.end
    file.seek(start)
    source = TextSource(file, rows.end - start, choose_block_bytes(file))
    if kind is TextKind.LINES:
        yield from cut_lines(source, start, place, decoder, chunk_bytes)
    else:
        cutter = ArrayCutter(source, start, place, decoder, chunk_bytes)
        yield from cutter.cut(is_first=is_first, is_last=is_last)
