"""Whether rows stand where they stood when they were ingested; only then do their numbers mean them.

The tables say what was read from each row of a file: the id of its record and what is said. The file is read
once more, without its media, and every row that gave an example has to give that id and that conversation
again; a record that was rejected as a duplicate is compared by the row that quarantine keeps. How rows are
spelled may differ.

Rows that are tried again may have been mended, so they are free to differ, but for one thing: a row that says
what it said, which a good row of the file says, too, has to name the media that it named. Else it may be that
good row: of records that say the same about two pictures, a good one and a rejected one could change places,
and the first would be written twice and the other never.

Rows are compared by 64-bit marks (`row_marks.py`), so some 50 bytes a record are held here. It costs a second
parse of the files, and a pass over the tables. What it does not see, for tables name no paths: that a good
row says the same about other media now, be it that two of them changed places; such examples stay as they
were ingested. Nor does it see that pictures in rows changed, or rows that `take` left out.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int64, UInt64

from pipelines.engine import run_in_order
from pipelines.ingest.inputs import AnnotationInput, RangeUnit
from pipelines.ingest.row_marks import (
    Kept,
    KeptMarks,
    KeptTable,
    RangeMarkWorker,
    StandingMarks,
    StandingRange,
    TableMarkWorker,
)
from pipelines.ingest.stages import IngestRun
from schemas.errors import MismatchError

Rows = Int64[np.ndarray, " rows"]
Marks = UInt64[np.ndarray, " rows"]
Names = UInt64[np.ndarray, " quarantined"]
"""Marks of media; of rows in quarantine, none of others."""


def check_places(run: IngestRun, ranges: Sequence[RangeUnit], tables: Sequence[KeptTable]) -> None:
    """See that rows are where they were.

    Args:
        run: who does the work.
        ranges: all ranges of the files that count, file by file, numbered.
        tables: all tables of examples and of quarantine.

    Raises:
        MismatchError: for the first row of a file that gives another record than before, or none, and for a
            rejected one that may have changed places with a good one.
    """
    inputs = tuple(dict.fromkeys(unit.input for unit in ranges))
    worker = TableMarkWorker(run.storage, inputs)
    kept = run_in_order(run.engine, worker, tables, "look up rows", run.progress)
    by_kind = {
        kind: _Kept([one for one, table in zip(kept, tables, strict=True) if table.kind is kind])
        for kind in Kept
    }
    units = list(_with_quarantined(ranges, inputs, by_kind))
    standing = run_in_order(run.engine, RangeMarkWorker(), units, "compare rows", run.progress)
    for place, one in enumerate(inputs):
        pieces = [marks for unit, marks in zip(ranges, standing, strict=True) if unit.input == one]
        _check_file(one, pieces, {kind: rows.of_file(place) for kind, rows in by_kind.items()})


class _Kept:
    """Rows of all tables of a kind."""

    def __init__(self, tables: Sequence[KeptMarks]) -> None:
        self.files = np.frombuffer(b"".join(one.files for one in tables), np.int32)
        self.rows: Rows = np.frombuffer(b"".join(one.rows for one in tables), np.int64)
        self.marks: Marks = np.frombuffer(b"".join(one.marks for one in tables), np.uint64)
        self.names: Names = np.frombuffer(b"".join(one.names for one in tables), np.uint64)

    def of_file(self, place: int) -> tuple[Rows, Marks, Names]:
        """Rows of a file, ascending, their marks, and those of their names."""
        (here,) = np.nonzero(self.files == place)
        here = here[np.argsort(self.rows[here])]
        return self.rows[here], self.marks[here], self.names[here] if len(self.names) else self.names


def _with_quarantined(
    ranges: Sequence[RangeUnit], inputs: Sequence[AnnotationInput], kept: dict[Kept, _Kept]
) -> Iterator[StandingRange]:
    """The ranges, each with the rows of quarantine in it."""
    rows = {
        one: [kept[kind].of_file(place)[0] for kind in (Kept.DUPLICATES, Kept.REJECTS)]
        for place, one in enumerate(inputs)
    }
    for unit in ranges:
        duplicates, rejects = (_find_inside(unit, some) for some in rows[unit.input])
        yield StandingRange(unit, frozenset(duplicates), tuple(rejects))


def _find_inside(unit: RangeUnit, rows: Rows) -> list[int]:
    start, end = np.searchsorted(rows, [unit.first_row, unit.first_row + unit.num_rows])
    return (rows[start:end] - unit.first_row).tolist()


def _check_file(
    one: AnnotationInput, standing: Sequence[StandingMarks], kept: dict[Kept, tuple[Rows, Marks, Names]]
) -> None:
    """See that the rows of a file are where they were."""
    found: Marks = np.frombuffer(b"".join(piece.marks for piece in standing), np.uint64)
    names: Names = np.frombuffer(b"".join(piece.names for piece in standing), np.uint64)
    advice = "row numbers mean other records: run `onetoken ingest`"
    for kind in (Kept.EXAMPLES, Kept.DUPLICATES):
        rows, marks, _ = kept[kind]
        moved = rows[found[rows] != marks]
        if len(moved):
            raise MismatchError(
                f"source {one.source}: row {moved[0]} of {one.name} is another record than when it was "
                f"ingested; {advice}"
            )
    rows, marks, old_names = kept[Kept.REJECTS]
    renamed = (found[rows] == marks) & (names != old_names) & np.isin(marks, kept[Kept.EXAMPLES][1])
    if renamed.any():
        raise MismatchError(
            f"source {one.source}: row {rows[renamed][0]} of {one.name} names other media than when it was "
            f"ingested, and a good row says the same: if these two changed places, {advice}"
        )
