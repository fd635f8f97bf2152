"""Ranges of annotation files become numbered, counted and selected: what `take` leaves of each.

A range is a guess until all ranges before it in the file were scanned and fit; from the first that does
not, the file is scanned once more, in sequence. Sources of which only a part is taken are scanned twice:
their rows have to be counted, and for `random` ranked, before anybody knows whose media to look for.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from pipelines.engine import Engine, Progress, run_in_order
from pipelines.ingest.inputs import EVERYTHING, RangeUnit, TakenRows, renumber
from pipelines.ingest.rows.ranges import RangeKind, RowRange
from pipelines.ingest.scan import ScanResult, ScanUnit, ScanWorker, Wanted
from pipelines.ingest.take import choose_rows
from schemas.errors import CorruptError


@dataclass(frozen=True, slots=True)
class ScannedRange:
    """A range whose rows are counted, and what its scan brought."""

    unit: RangeUnit
    result: ScanResult


def scan_ranges(
    engine: Engine, worker: ScanWorker, units: Sequence[RangeUnit], progress: Progress
) -> list[ScannedRange]:
    """All ranges, in the order of sources, files and rows, with the media that their rows name.

    Raises:
        CorruptError: when a file is broken between rows.
    """

    def scan(some: Sequence[RangeUnit], wanted: Wanted) -> list[ScannedRange]:
        return _scan_until_placed(engine, worker, some, wanted, progress)

    selected = [unit for group in _selections(units) for unit in _select(group, scan)]
    return scan_media(engine, worker, selected, progress)


def count_ranges(
    engine: Engine, worker: ScanWorker, units: Sequence[RangeUnit], progress: Progress
) -> list[RangeUnit]:
    """The ranges with the number of their first row and of their rows.

    Raises:
        CorruptError: when a file is broken between rows.
    """
    return [one.unit for one in _scan_until_placed(engine, worker, units, Wanted.COUNT, progress)]


def scan_media(
    engine: Engine, worker: ScanWorker, units: Sequence[RangeUnit], progress: Progress
) -> list[ScannedRange]:
    """The ranges, numbered, with the media that the rows name that are taken of them.

    Raises:
        CorruptError: when a file is broken between rows.
    """
    numbered = _scan_until_placed(engine, worker, renumber(units), Wanted.MEDIA, progress)
    units = renumber([one.unit for one in numbered])
    return [ScannedRange(unit, one.result) for unit, one in zip(units, numbered, strict=True)]


def _select(
    units: list[RangeUnit], scan: Callable[[Sequence[RangeUnit], Wanted], list[ScannedRange]]
) -> list[RangeUnit]:
    """The ranges of one selection, with the rows that are taken."""
    take = units[0].input.take
    if take == EVERYTHING:
        return units
    is_random = take.startswith("random")
    scanned = scan(units, Wanted.RANKS if is_random else Wanted.COUNT)
    num_rows = sum(one.unit.num_rows for one in scanned)
    ranks = np.frombuffer(b"".join(one.result.ranks for one in scanned), dtype=np.uint64)
    taken = choose_rows(take, num_rows, ranks if is_random else None)
    return list(_deal_out(scanned, taken))


def _deal_out(scanned: Sequence[ScannedRange], taken: range | np.ndarray) -> Iterable[RangeUnit]:
    """Each range with its share of the rows that are taken, out of all rows of the selection."""
    rows = np.asarray(taken, dtype=np.int64)
    first = 0
    for one in scanned:
        start, end = np.searchsorted(rows, [first, first + one.unit.num_rows])
        yield replace(one.unit, taken=TakenRows(rows[start:end] - first))
        first += one.unit.num_rows


def _scan_until_placed(
    engine: Engine, worker: ScanWorker, units: Sequence[RangeUnit], wanted: Wanted, progress: Progress
) -> list[ScannedRange]:
    """Ranges with first rows and counts; those that were guessed wrong are replaced and scanned again."""
    scanned = _scan_once(engine, worker, units, wanted, progress)
    if not any(one.result.is_misplaced for one in scanned):
        return _number_rows(scanned)
    known: list[ScannedRange] = []
    for _, group in groupby(scanned, key=lambda one: one.unit.input):
        ranges = list(group)
        placed = next((n for n, one in enumerate(ranges) if one.result.is_misplaced), len(ranges))
        known += ranges[:placed]
        if placed < len(ranges):
            rest = _read_in_sequence(ranges[placed].unit, sum(one.result.num_rows for one in ranges[:placed]))
            again = _scan_once(engine, worker, [rest], wanted, progress)
            if again[0].result.is_misplaced:
                raise CorruptError(f"annotations {rest.input.written}: cannot be read, not even in sequence")
            known += again
    return _number_rows(known)


def _read_in_sequence(unit: RangeUnit, first_row: int) -> RangeUnit:
    """From the start of a range to the end of the file, whatever was guessed of the rest."""
    rows = RowRange(RangeKind.STREAM, unit.rows.start, unit.rows.end)
    return replace(unit, rows=rows, first_row=first_row, taken=None)


def _scan_once(
    engine: Engine, worker: ScanWorker, units: Sequence[RangeUnit], wanted: Wanted, progress: Progress
) -> list[ScannedRange]:
    scans = [ScanUnit(unit, wanted) for unit in units]
    results = run_in_order(engine, worker, scans, "scan", progress)
    return [ScannedRange(unit, result) for unit, result in zip(units, results, strict=True)]


def _number_rows(scanned: Sequence[ScannedRange]) -> list[ScannedRange]:
    """The ranges with their counts, and their first rows counted within their file."""
    numbered: list[ScannedRange] = []
    for _, group in groupby(scanned, key=lambda one: one.unit.input):
        first_row = 0
        for one in group:
            unit = replace(one.unit, first_row=first_row, num_rows=one.result.num_rows)
            numbered.append(ScannedRange(unit, one.result))
            first_row += one.result.num_rows
    return numbered


def _selections(units: Sequence[RangeUnit]) -> Iterable[list[RangeUnit]]:
    return (list(group) for _, group in groupby(units, key=lambda unit: unit.input.selection))
