"""Hands units to workers that may die: the one dispatcher behind the processes and the Ray engine.

Workers are disposable and pull: one is hired, gets work once it answered, holds one unit at a time, and is
replaced when it dies. So nothing is bound to a worker beforehand, and no more units are under way than there
are slots. What happens to a unit:

    its worker dies, or takes longer than the limit    another worker gets it
    ... and that one dies, too                         it is divided (`Divisible`), or the run ends
    a TransientError                                   it is tried `MAX_TRIES` times, with pauses
    any other error                                    the run ends

A slot that stays empty, because a machine is gone for good, is tried again and again while others work; the
run ends when no worker is left and none starts.

Units come back any number of times, so whatever they do must be harmless to repeat; commits see to that.
What it costs: a message each way per unit, and a few hundred bytes per worker; nothing per unit that is
done, and no pass over all workers (`pipelines.roster`).
"""

import heapq
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, cast, runtime_checkable

from pipelines.engine import (
    MAX_TRIES,
    Divisible,
    Observer,
    Worker,
    describe_unit,
    draw_pause_s,
    observe_nothing,
)
from pipelines.host import Broken, Done, Failed, Lost, Ready, Report
from pipelines.roster import Post, Roster
from schemas.errors import PipelineError, TransientError, WorkerLostError, WorkError
from schemas.events import UnitDivided, UnitDone, UnitRetried, WorkerLost

MAX_DEATHS: Final = 2
START_LIMIT_S: Final = 600.0
"""For a worker to be placed, to import and to build."""
MAX_REASON_CHARS: Final = 200


@runtime_checkable
class Crew(Protocol):
    """Hires workers, named by numbers, and passes messages; processes or actors of Ray."""

    num_slots: int

    def hire(self) -> int:
        """Begin to start a worker; it reports `Ready`, or why it is not."""
        ...

    def give(self, worker: int, unit: Any) -> None:  # noqa: ANN401 - any unit
        """Let a worker, that has nothing to do, do a unit; it reports."""
        ...

    def wait(self, limit_s: float) -> Sequence[tuple[int, Report]]:
        """Reports that have come in; waits for one, but not longer than this."""
        ...

    def dismiss(self, worker: int) -> None:
        """Kill a worker; it reports nothing any more. One that is gone already is no error."""
        ...

    def close(self) -> None:
        """Send everybody home; no worker is left."""
        ...


@dataclass(slots=True)
class _Task:
    """A unit, or a part of one, that is not done."""

    index: int
    unit: Any
    division: "_Division | None" = None
    was_divided: bool = False
    num_deaths: int = 0
    num_tries: int = 0


@dataclass(slots=True)
class _Division:
    """A unit that was taken apart, until all of its parts have run."""

    task: _Task
    num_open: int
    killers: list[Any] = field(default_factory=list[Any])


class Dispatch:
    """One run of a stage."""

    def __init__(
        self,
        crew: Crew,
        spec: Worker[Any, Any],
        units: Sequence[Any],
        *,
        unit_limit_s: float,
        start_limit_s: float = START_LIMIT_S,
        observer: Observer = observe_nothing,
        stage: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._crew = crew
        self._now_s = clock
        self._observe = observer
        self._stage = stage
        self._divisible = cast("Divisible[Any]", spec) if isinstance(spec, Divisible) else None
        self._units = units
        self._unit_limit_s = unit_limit_s
        self._start_limit_s = start_limit_s
        self._num_fresh = len(units)
        self._again: deque[_Task] = deque()
        self._paused: list[tuple[float, int, _Task]] = []
        self._pauses = itertools.count()
        self._roster: Roster[_Task] = Roster()
        self._num_failed_starts = 0

    def results(self) -> Iterator[tuple[int, Any]]:
        """Yield (index, result) until no unit is left.

        Raises:
            WorkerLostError: when workers do not start, or a unit that cannot be divided kills them.
            WorkError: when something unplanned was raised, or the outside failed too often.
            PipelineError: what a unit lets through.
        """
        try:
            while self._count_waiting() or self._roster.num_busy:
                self._staff()
                for worker, report in self._crew.wait(self._time_left_s()):
                    yield from self._receive(worker, report)
                while (due := self._roster.first_due()) and self._now_s() > due[0]:
                    self._crew.dismiss(due[1])
                    self._bury(due[1], self._describe_delay(self._roster[due[1]]))
        finally:
            self._crew.close()

    def _count_waiting(self) -> int:
        return self._num_fresh + len(self._again) + len(self._paused)

    def _staff(self) -> None:
        """Give work to who has none, hire while there is more, let go who is not needed."""
        while self._paused and self._paused[0][0] <= self._now_s():
            self._again.append(heapq.heappop(self._paused)[2])
        while (worker := self._roster.take_resting()) is not None:
            if task := self._next_task():
                start_s = self._now_s()
                self._roster.occupy(worker, task, start_s, start_s + self._unit_limit_s)
                self._crew.give(worker, task.unit)
            elif self._paused:
                self._roster.rest(worker)
                break
            else:
                self._crew.dismiss(worker)
                self._roster.remove(worker)
        num_wanted = min(self._crew.num_slots, self._roster.num_busy + self._count_waiting())
        for _ in range(len(self._roster), num_wanted):
            self._roster.add(self._crew.hire(), self._now_s() + self._start_limit_s)

    def _next_task(self) -> _Task | None:
        if self._again:
            return self._again.popleft()
        if not self._num_fresh:
            return None
        index = len(self._units) - self._num_fresh
        self._num_fresh -= 1
        return _Task(index, self._units[index])

    def _time_left_s(self) -> float:
        due = self._roster.first_due()
        events = [due[0]] if due else []
        events += [due_s for due_s, _, _ in self._paused[:1]]
        return max(0.0, min(events) - self._now_s())

    def _receive(self, worker: int, report: Report) -> Iterator[tuple[int, Any]]:
        post = self._roster[worker]
        match report:
            case Ready():
                self._roster.rest(worker)
                self._num_failed_starts = 0
            case Done(result):
                task = post.task
                self._roster.rest(worker)
                if task and task.division:
                    self._close_part(task.division)
                elif task:
                    seconds = self._now_s() - post.start_s
                    self._observe(UnitDone(stage=self._stage, unit=task.index, seconds=seconds))
                    yield task.index, result
            case Failed(error):
                self._fail(worker, error)
            case Broken(trace):
                raise WorkError(f"{self._describe(post.task)} failed in a worker:\n{trace}")
            case Lost(reason):
                self._bury(worker, reason)

    def _fail(self, worker: int, error: PipelineError | OSError) -> None:
        if not isinstance(error, TransientError):
            raise error
        task = self._roster[worker].task
        if task is None:
            self._crew.dismiss(worker)
            self._bury(worker, str(error))
            return
        self._roster.rest(worker)
        task.num_tries += 1
        if task.num_tries >= MAX_TRIES:
            raise WorkError(f"{self._describe(task)} failed {MAX_TRIES} times: {error}") from error
        self._observe(UnitRetried(stage=self._stage, unit=task.index, error=type(error).__name__))
        due_s = self._now_s() + draw_pause_s(task.num_tries)
        heapq.heappush(self._paused, (due_s, next(self._pauses), task))

    def _bury(self, worker: int, reason: str) -> None:
        post = self._roster.remove(worker)
        lost = post.task.index if post.task else None
        self._observe(WorkerLost(stage=self._stage, unit=lost, reason=_shorten(reason)))
        if not post.is_ready:
            self._num_failed_starts += 1
            is_hopeless = self._num_failed_starts > MAX_DEATHS * (self._crew.num_slots + 1)
            if is_hopeless and not self._roster.has_ready:
                raise WorkerLostError(
                    f"{self._num_failed_starts} workers in a row were lost before they started: {reason}"
                )
        elif post.task:
            post.task.num_deaths += 1
            if post.task.num_deaths < MAX_DEATHS:
                self._again.appendleft(post.task)
            else:
                self._divide(post.task, reason)

    def _divide(self, task: _Task, reason: str) -> None:
        """Find out which part of a unit it is that kills."""
        if task.division:
            task.division.killers.append(task.unit)
            self._close_part(task.division)
            return
        parts = self._divisible.divide(task.unit) if self._divisible else ()
        if task.was_divided or not parts:
            raise WorkerLostError(f"{self._describe(task)} killed its worker {MAX_DEATHS} times: {reason}")
        self._observe(UnitDivided(stage=self._stage, unit=task.index, num_parts=len(parts)))
        division = _Division(task, len(parts))
        self._again.extendleft(_Task(task.index, part, division) for part in reversed(parts))

    def _close_part(self, division: _Division) -> None:
        division.num_open -= 1
        if division.num_open:
            return
        unit = division.task.unit
        if division.killers and self._divisible:
            unit = self._divisible.exclude(unit, division.killers)
        self._again.appendleft(_Task(division.task.index, unit, was_divided=True))

    def _describe_delay(self, post: Post[_Task]) -> str:
        if post.task:
            return f"it took longer than {self._unit_limit_s:g} s"
        return f"it was not ready within {self._start_limit_s:g} s; are there enough free CPUs and memory?"

    def _describe(self, task: _Task | None) -> str:
        return describe_unit(task.index, task.unit) if task else "the start"


def _shorten(reason: str) -> str:
    """The first line: what a dying process said stands below it, and may be anything."""
    return reason.partition("\n")[0][:MAX_REASON_CHARS]
