"""Marks of rows: 64 bits that tell what a row says, from the tables and from the file as it is now.

A mark is a digest of the id of a record and of its conversation, however both were spelled. Of rejects there
is a second one, of the media that they name: the tables of examples hold no names.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from io import BytesIO
from typing import Final, cast

import numpy as np
import polars as pl
from xxhash import xxh3_64_intdigest

from infra.storage import Storage
from operators.annotations import LAYOUTS
from operators.annotations.layout import Layout
from operators.annotations.usual import read_usual_rows
from pipelines.commit import read_object
from pipelines.ingest.collection import no_collection
from pipelines.ingest.inputs import AnnotationInput, RangeUnit
from pipelines.ingest.rows.chunks import Chunk, UsualChunk, read_usual_chunks
from pipelines.ingest.rows.json_values import RowProblem, parse_row
from schemas.corpus import ObjectEntry
from schemas.errors import SampleError
from schemas.record import encode_conversation

_NO_RECORD: Final = 0
_PLACE: Final = ("source", "record_file", "record_row")


class Kept(Enum):
    """What became of the rows of a table."""

    EXAMPLES = auto()
    DUPLICATES = auto()
    """Rejected because an earlier row is the same."""
    REJECTS = auto()
    """Rejected for what may be mended."""


@dataclass(frozen=True, slots=True)
class KeptTable:
    """A table of examples, or of quarantine."""

    entry: ObjectEntry
    kind: Kept


@dataclass(frozen=True, slots=True)
class KeptMarks:
    """What a table tells of some files: marks of rows, and where each stands."""

    files: bytes
    """32-bit places among the files."""
    rows: bytes
    """64-bit, in the file."""
    marks: bytes
    """64-bit."""
    names: bytes = b""
    """64-bit, of the media that rows of quarantine name."""


@dataclass(frozen=True, slots=True)
class TableMarkWorker:
    """Builds the function that marks the rows of a table, inside a worker."""

    storage: Storage
    inputs: tuple[AnnotationInput, ...]
    """The files that count."""

    def build(self) -> Callable[[KeptTable], KeptMarks]:
        """See `Worker.build`."""
        files = pl.DataFrame(
            {
                "file": pl.Series(range(len(self.inputs)), dtype=pl.Int32),
                "source": pl.Series([one.source for one in self.inputs], dtype=pl.String),
                "record_file": pl.Series([one.name for one in self.inputs], dtype=pl.String),
            }
        )
        layouts = {file: LAYOUTS[one.format] for file, one in enumerate(self.inputs)}

        def mark_table(table: KeptTable) -> KeptMarks:
            said = ("record_id", "conversation") if table.kind is Kept.EXAMPLES else ("raw",)
            data = BytesIO(read_object(self.storage, table.entry))
            rows = pl.read_parquet(data, columns=[*_PLACE, *said]).join(files, on=["source", "record_file"])
            names: list[int] = []
            if table.kind is Kept.EXAMPLES:
                marks = [_mark(*values) for values in rows.select(said).iter_rows()]
            else:
                raws = [(layouts[file], raw) for file, raw in rows.select("file", "raw").iter_rows()]
                marks = [_mark_raw(*row) for row in raws]
                names = [_mark_names(layout, parse_row(raw, 0)) for layout, raw in raws]
            return KeptMarks(
                rows["file"].to_numpy().tobytes(),
                rows["record_row"].to_numpy().tobytes(),
                np.array(marks, np.uint64).tobytes(),
                np.array(names, np.uint64).tobytes(),
            )

        return mark_table


@dataclass(frozen=True, slots=True)
class StandingRange:
    """A range of a file as it is now, and rows of it that quarantine keeps, counted from its first."""

    range: RangeUnit
    duplicates: frozenset[int]
    """These are marked as quarantine keeps them."""
    rejects: tuple[int, ...]
    """Of these, ascending, the names are marked, too."""


@dataclass(frozen=True, slots=True)
class StandingMarks:
    """Marks of the rows of a range."""

    marks: bytes
    """64-bit, of all rows."""
    names: bytes
    """64-bit, of the rejects."""


@dataclass(frozen=True, slots=True)
class RangeMarkWorker:
    """Builds the function that marks the rows of a range, inside a worker."""

    def build(self) -> Callable[[StandingRange], StandingMarks]:
        """See `Worker.build`."""

        def mark_range(unit: StandingRange) -> StandingMarks:
            one, layout = unit.range, LAYOUTS[unit.range.input.format]
            marks: list[int] = []
            names: list[int] = []
            rejects = np.array(unit.rejects, np.int64)
            with no_collection(), one.input.open() as file:
                for chunk in read_usual_chunks(
                    file, one.input.written, one.rows, one.first_row, layout.usual
                ):
                    first = len(marks)
                    marks += _mark_chunk(chunk, layout, unit.duplicates, first)
                    start, end = np.searchsorted(rejects, [first, len(marks)])
                    names += [_mark_names(layout, chunk.read(row - first)) for row in unit.rejects[start:end]]
            return StandingMarks(np.array(marks, np.uint64).tobytes(), np.array(names, np.uint64).tobytes())

        return mark_range


def _mark_chunk(
    chunk: Chunk | UsualChunk, layout: Layout, duplicates: frozenset[int], first: int
) -> list[int]:
    marks: list[int | None] = [None] * chunk.num_rows
    if isinstance(chunk, UsualChunk) and layout.usual is not None:
        usual = read_usual_rows(chunk.columns, layout.usual)
        for row, record_id, said in zip(usual.rows, usual.record_ids, usual.conversations, strict=True):
            marks[row] = _mark(record_id, said)
    for row in duplicates.intersection(range(first, first + chunk.num_rows)):
        marks[row - first] = _mark_raw(layout, chunk.raw(row - first))
    return [_mark_row(layout, chunk.read(row)) if mark is None else mark for row, mark in enumerate(marks)]


def _mark_raw(layout: Layout, raw: bytes) -> int:
    """The mark of the raw bytes of a row: of parquet, these say less than the row does."""
    return _mark_row(layout, parse_row(raw, 0)) or xxh3_64_intdigest(raw)


def _mark_row(layout: Layout, value: object | RowProblem) -> int:
    if isinstance(value, RowProblem):
        return _NO_RECORD
    try:
        record = layout.parse(value)
        return _mark(record.record_id, encode_conversation(record.texts))
    except SampleError:
        return _NO_RECORD


def _mark(record_id: str, conversation: bytes) -> int:
    return xxh3_64_intdigest(b"%s\n%s" % (record_id.encode(), conversation))


def _mark_names(layout: Layout, value: object | RowProblem) -> int:
    """The mark of the media that a row names; the same for all rows that name none."""
    if not isinstance(value, dict):
        return _NO_RECORD
    fields = cast("dict[str, object]", value)
    try:
        named = layout.name_media(*map(fields.get, layout.media_fields))
    except SampleError:
        return _NO_RECORD
    return xxh3_64_intdigest(repr([(one.kind.value, one.path) for one in named]).encode())
