"""The dispatcher with a crew that does as it is told, so that nothing takes time."""

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from engine_workers import Squares

from pipelines.dispatch import MAX_DEATHS, Dispatch
from pipelines.host import Done, Ready, Report
from schemas.errors import WorkerLostError

NUM_SLOTS = 2


class ShrunkenCrew:
    """Of two slots one can be filled, as on a cluster that lost a machine, or none."""

    num_slots = NUM_SLOTS

    def __init__(self, num_startable: int) -> None:
        self._num_startable = num_startable
        self._reports: list[tuple[int, Report]] = []
        self.num_hired = 0
        self.dismissed: list[int] = []

    def hire(self) -> int:
        self.num_hired += 1
        if self.num_hired <= self._num_startable:
            self._reports.append((self.num_hired, Ready()))
        return self.num_hired

    def give(self, worker: int, unit: Any) -> None:
        self._reports.append((worker, Done(unit * unit)))

    def wait(self, limit_s: float) -> Sequence[tuple[int, Report]]:
        reports, self._reports = self._reports[:1], self._reports[1:]
        return reports

    def dismiss(self, worker: int) -> None:
        self.dismissed.append(worker)

    def close(self) -> None:
        pass


def run(crew: ShrunkenCrew, units: Sequence[int]) -> Iterator[tuple[int, int]]:
    return Dispatch(crew, Squares(), units, unit_limit_s=60.0, start_limit_s=0.0).results()


def test_a_slot_that_stays_empty_does_not_end_a_run_that_goes_on() -> None:
    crew = ShrunkenCrew(1)
    units = range(10 * MAX_DEATHS * (NUM_SLOTS + 1))
    assert [result for _, result in run(crew, units)] == [unit * unit for unit in units]
    assert len(crew.dismissed) > 2 * MAX_DEATHS * (NUM_SLOTS + 1)


def test_a_run_ends_when_nobody_is_left_and_nobody_starts() -> None:
    crew = ShrunkenCrew(0)
    with pytest.raises(WorkerLostError, match="workers in a row were lost before they started"):
        list(run(crew, range(3)))
    assert crew.num_hired > MAX_DEATHS * (NUM_SLOTS + 1)


class LargeCrew:
    """Thousands of slots; everybody answers at once, one report a wait."""

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self._reports: deque[tuple[int, Report]] = deque()
        self._numbers = itertools.count()

    def hire(self) -> int:
        worker = next(self._numbers)
        self._reports.append((worker, Ready()))
        return worker

    def give(self, worker: int, unit: Any) -> None:
        self._reports.append((worker, Done(unit)))

    def wait(self, limit_s: float) -> Sequence[tuple[int, Report]]:
        return [self._reports.popleft()]

    def dismiss(self, worker: int) -> None:
        pass

    def close(self) -> None:
        pass


def count_clock_reads(num_slots: int, num_units: int) -> int:
    """A dispatcher that looked at every worker at each report would read the clock for each."""
    reads = itertools.count()
    crew = LargeCrew(num_slots)
    dispatch = Dispatch(
        crew,
        Squares(),
        range(num_units),
        unit_limit_s=1e9,
        start_limit_s=1e9,
        clock=lambda: float(next(reads)),
    )
    assert sorted(index for index, _ in dispatch.results()) == list(range(num_units))
    return next(reads)


def test_a_report_costs_the_same_with_any_number_of_workers() -> None:
    assert count_clock_reads(300, 900) <= 1.5 * count_clock_reads(2, 900)
