"""Engines: who runs the units of a stage. The serial one is here; the others are behind the same interface.

A unit is a small plain value, the work on it a pure function of the unit and the corpus, and its result small
again: bytes go to storage, not through the engine. What a worker needs and is dear to make (an encoder, an
open file) is made once per process by `Worker.build`; the specification travels, the objects do not.

Results come as they are finished; nothing is kept of a unit that is done, and units are asked for by index,
one at a time, so that a computed sequence of a million units costs no memory. An error that a unit lets
through ends the run: units reject single records and items themselves. Only a `TransientError` is tried
again here. What the serial engine leaves out: it has no limit per unit, and a unit that kills its process
ends the run.

An engine has an observer, which is told what happens as events (`schemas.events`); `run_as_finished` tells of
stages, engines of units and workers, flows of what units brought.
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar, runtime_checkable

from schemas.errors import TransientError, WorkError
from schemas.events import Event, StageEnded, StageStarted, UnitDone, UnitRetried

Unit = TypeVar("Unit")
Result = TypeVar("Result")
UnitIn = TypeVar("UnitIn", contravariant=True)
ResultOut = TypeVar("ResultOut", covariant=True)

MAX_TRIES: Final = 4
FIRST_PAUSE_S: Final = 1.0
UNIT_LIMIT_S: Final = 4 * 3600.0


@runtime_checkable
class Worker(Protocol[UnitIn, ResultOut]):
    """Builds, inside the worker's process, the function that does the work."""

    def build(self) -> Callable[[UnitIn], ResultOut]:
        """Make the function; called once per worker."""
        ...


@runtime_checkable
class Divisible(Protocol[Unit]):
    """A worker whose units can be taken apart, so that one item that kills processes does not end the run.

    A unit whose workers died twice is divided and each part is run by itself; results of parts are dropped.
    Then the unit is run once more, without the parts that killed their workers again.
    """

    def divide(self, unit: Unit) -> Sequence[Unit]:
        """Units of one item each; running one must do to the item what the unit does, and commit nothing."""
        ...

    def exclude(self, unit: Unit, killers: Sequence[Unit]) -> Unit:
        """The unit that rejects the items of these parts as `RejectCode.WORKER_CRASH`, untouched."""
        ...


@dataclass(frozen=True, slots=True)
class Resources:
    """What one worker occupies, and how long it may take for one unit."""

    num_cpus: float = 1.0
    num_gpus: float = 0.0
    memory_bytes: int = 0
    """0: not stated."""
    unit_limit_s: float = UNIT_LIMIT_S
    """A worker that takes longer is killed, as if it had died."""


DATA_WORKER: Final = Resources(memory_bytes=1 << 30)
"""What most workers of the data stages need: one thread, and some 400 MiB where rows are not large."""


Observer = Callable[[Event], None]
"""Told what happens, in the process of the engine."""


def observe_nothing(_event: Event) -> None:
    """Keep no record."""


def observe_all(*observers: Observer) -> Observer:
    """One observer for several."""

    def observe(event: Event) -> None:
        for observer in observers:
            observer(event)

    return observe


@runtime_checkable
class Engine(Protocol):
    """Runs units on some number of workers."""

    @property
    def observer(self) -> Observer:
        """Who is told what happens."""
        ...

    @property
    def name(self) -> str:
        """As in `--engine`."""
        ...

    @property
    def has_gpu(self) -> bool:
        """Whether its workers must ask for a GPU to see one."""
        ...

    def run(
        self,
        spec: Worker[Unit, Result],
        units: Sequence[Unit],
        resources: Resources = DATA_WORKER,
        stage: str = "",
    ) -> Iterator[tuple[int, Result]]:
        """Yield (index of the unit, its result) in the order of completion; events bear the stage's name."""
        ...


@runtime_checkable
class Progress(Protocol):
    """Told how far a stage is; what it does with it is the command line's business."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """`done` of `total` units of a stage are finished."""
        ...


def no_progress(stage: str, done: int, total: int) -> None:
    """Tell nobody."""


def run_as_finished(
    engine: Engine,
    spec: Worker[Unit, Result],
    units: Sequence[Unit],
    stage: str,
    progress: Progress = no_progress,
    resources: Resources = DATA_WORKER,
) -> Iterator[tuple[int, Result]]:
    """Run all units of a stage, telling the progress; (index, result) in the order of completion."""
    if not units:
        return
    num_done, start_s = 0, time.monotonic()
    engine.observer(StageStarted(stage=stage, num_units=len(units)))
    try:
        progress(stage, 0, len(units))
        for finished in engine.run(spec, units, resources, stage):
            num_done += 1
            progress(stage, num_done, len(units))
            yield finished
    finally:
        seconds, is_complete = time.monotonic() - start_s, num_done == len(units)
        engine.observer(StageEnded(stage=stage, seconds=seconds, num_done=num_done, is_complete=is_complete))


def run_in_order(
    engine: Engine,
    spec: Worker[Unit, Result],
    units: Sequence[Unit],
    stage: str,
    progress: Progress = no_progress,
    resources: Resources = DATA_WORKER,
) -> list[Result]:
    """Run all units of a stage; the results, all in memory, come in the order of the units."""
    results = dict(run_as_finished(engine, spec, units, stage, progress, resources))
    return [results[index] for index in range(len(units))]


def draw_pause_s(num_tries: int) -> float:
    """How long to wait after so many failed tries: longer each time, and never the same for two workers."""
    return FIRST_PAUSE_S * 2 ** (num_tries - 1) * random.SystemRandom().uniform(0.5, 1.5)


class SerialEngine:
    """One unit after the other, in this process: the reference that the other engines must equal."""

    name = "serial"
    has_gpu = False

    def __init__(self, observer: Observer = observe_nothing) -> None:
        self.observer = observer

    def run(
        self,
        spec: Worker[Unit, Result],
        units: Sequence[Unit],
        resources: Resources = DATA_WORKER,
        stage: str = "",
    ) -> Iterator[tuple[int, Result]]:
        """See `Engine.run`."""
        if not units:
            return
        work = spec.build()
        for index in range(len(units)):
            start_s = time.monotonic()
            result = self._try_some_times(work, units[index], index, stage)
            self.observer(UnitDone(stage=stage, unit=index, seconds=time.monotonic() - start_s))
            yield index, result

    def _try_some_times(self, work: Callable[[Unit], Result], unit: Unit, index: int, stage: str) -> Result:
        for num_tries in range(1, MAX_TRIES):
            try:
                return work(unit)
            except TransientError as error:
                self.observer(UnitRetried(stage=stage, unit=index, error=type(error).__name__))
                time.sleep(draw_pause_s(num_tries))
        try:
            return work(unit)
        except TransientError as error:
            raise WorkError(f"{describe_unit(index, unit)} failed {MAX_TRIES} times: {error}") from error


def describe_unit(index: int, unit: object) -> str:
    """A unit, in the words of an error."""
    return f"unit {index} ({unit!r:.200})"
