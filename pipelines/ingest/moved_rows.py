"""Whether rows stand where they stood when they were ingested; only then do their numbers mean them.

The tables say what was read from each row of a file: the id of its record and what is said. The file is read
once more, without its media, and every row that gave an example has to give that id and that conversation
again; a record that was rejected as a duplicate is compared by the row that quarantine keeps. How rows are
spelled may differ, and rows that may have been mended are not looked at.

Rows are compared by 64-bit marks, so 20 bytes a record are held here. It costs a second parse of the files,
and a pass over the tables. What it does not see: two records alike in id and conversation that changed
places, and changes of rows that `take` left out.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Final

import numpy as np
import polars as pl
from jaxtyping import UInt64
from xxhash import xxh3_64_intdigest

from infra.files import open_files
from infra.storage import Storage
from operators.annotations import LAYOUTS
from operators.annotations.layout import Layout
from operators.annotations.usual import read_usual_rows
from pipelines.commit import read_object
from pipelines.engine import run_in_order
from pipelines.ingest.collection import no_collection
from pipelines.ingest.inputs import AnnotationInput, RangeUnit
from pipelines.ingest.rows.chunks import Chunk, UsualChunk, read_usual_chunks
from pipelines.ingest.rows.json_values import RowProblem, parse_row
from pipelines.ingest.stages import IngestRun
from schemas.corpus import ObjectEntry
from schemas.errors import MismatchError, SampleError
from schemas.record import encode_conversation

_NO_RECORD: Final = 0
_PLACE: Final = ("source", "record_file", "record_row")


@dataclass(frozen=True, slots=True)
class KeptTable:
    """A table of examples, or of duplicates in quarantine."""

    entry: ObjectEntry
    are_duplicates: bool


@dataclass(frozen=True, slots=True)
class KeptMarks:
    """What a table tells of some files: marks of rows, and where each stands."""

    files: bytes
    """32-bit places among the files."""
    rows: bytes
    """64-bit, in the file."""
    marks: bytes
    """64-bit."""


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

        def mark_table(table: KeptTable) -> KeptMarks:
            said = ("raw",) if table.are_duplicates else ("record_id", "conversation")
            data = BytesIO(read_object(self.storage, table.entry))
            rows = pl.read_parquet(data, columns=[*_PLACE, *said]).join(files, on=["source", "record_file"])
            if table.are_duplicates:
                layouts = {file: LAYOUTS[one.format] for file, one in enumerate(self.inputs)}
                marks = [
                    _mark_raw(layouts[file], raw) for file, raw in rows.select("file", "raw").iter_rows()
                ]
            else:
                marks = [_mark(*values) for values in rows.select(said).iter_rows()]
            return KeptMarks(
                rows["file"].to_numpy().tobytes(),
                rows["record_row"].to_numpy().tobytes(),
                np.array(marks, np.uint64).tobytes(),
            )

        return mark_table


@dataclass(frozen=True, slots=True)
class StandingRange:
    """A range of a file as it is now, and rows of it that are marked as quarantine keeps them."""

    range: RangeUnit
    duplicates: frozenset[int]
    """Counted from the first row of the range."""


@dataclass(frozen=True, slots=True)
class RangeMarkWorker:
    """Builds the function that marks the rows of a range, inside a worker."""

    def build(self) -> Callable[[StandingRange], bytes]:
        """See `Worker.build`."""

        def mark_range(unit: StandingRange) -> bytes:
            one, layout = unit.range, LAYOUTS[unit.range.input.format]
            marks: list[int] = []
            with no_collection(), open_files(one.input.folder).open(one.input.name) as file:
                for chunk in read_usual_chunks(
                    file, one.input.written, one.rows, one.first_row, layout.usual
                ):
                    marks += _mark_chunk(chunk, layout, unit.duplicates, len(marks))
            return np.array(marks, np.uint64).tobytes()

        return mark_range


def check_places(
    run: IngestRun,
    ranges: Sequence[RangeUnit],
    examples: Sequence[ObjectEntry],
    duplicates: Sequence[ObjectEntry],
) -> None:
    """See that rows are where they were.

    Args:
        run: who does the work.
        ranges: all ranges of the files that count, file by file, numbered.
        examples: tables of what was written.
        duplicates: tables of quarantine that hold nothing but duplicates.

    Raises:
        MismatchError: for the first row of a file that gives another record than before, or none.
    """
    inputs = tuple(dict.fromkeys(unit.input for unit in ranges))
    worker = TableMarkWorker(run.storage, inputs)
    tables = [KeptTable(one, False) for one in examples] + [KeptTable(one, True) for one in duplicates]
    kept = run_in_order(run.engine, worker, tables, "look up rows", run.progress)
    kept_duplicates = kept[len(examples) :]
    files = np.frombuffer(b"".join(one.files for one in kept), np.int32)
    rows = np.frombuffer(b"".join(one.rows for one in kept), np.int64)
    marks = np.frombuffer(b"".join(one.marks for one in kept), np.uint64)
    units = list(_with_duplicates(ranges, inputs, kept_duplicates))
    standing = run_in_order(run.engine, RangeMarkWorker(), units, "compare rows", run.progress)
    for place, one in enumerate(inputs):
        pieces = [data for unit, data in zip(ranges, standing, strict=True) if unit.input == one]
        found: UInt64[np.ndarray, " rows"] = np.frombuffer(b"".join(pieces), np.uint64)
        of_file = files == place
        moved = rows[of_file][found[rows[of_file]] != marks[of_file]]
        if len(moved):
            raise MismatchError(
                f"source {one.source}: row {moved.min()} of {one.name} is another record than when it was "
                "ingested; row numbers mean other records: run `onetoken ingest`"
            )


def _with_duplicates(
    ranges: Sequence[RangeUnit], inputs: Sequence[AnnotationInput], kept: Sequence[KeptMarks]
) -> Iterable[StandingRange]:
    """The ranges, each with the duplicates in it."""
    files = np.frombuffer(b"".join(one.files for one in kept), np.int32)
    rows = np.frombuffer(b"".join(one.rows for one in kept), np.int64)
    by_file = {one: np.sort(rows[files == place]) for place, one in enumerate(inputs)}
    for unit in ranges:
        inside = by_file[unit.input]
        start, end = np.searchsorted(inside, [unit.first_row, unit.first_row + unit.num_rows])
        yield StandingRange(unit, frozenset((inside[start:end] - unit.first_row).tolist()))


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
