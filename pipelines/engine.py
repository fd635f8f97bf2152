"""Engines: who runs the units of a stage. The serial one is here; Ray's is behind the same interface.

A unit is a small plain value, the work on it a pure function of the unit and the corpus, and its result small
again: bytes go to storage, not through the engine. What a worker needs and is dear to make (an encoder, an
open file) is made once per process by `Worker.build`; the specification travels, the objects do not.

Results come as they are finished. An error that a unit lets through ends the run: units reject single records
and items themselves.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar, runtime_checkable

Unit = TypeVar("Unit")
Result = TypeVar("Result")
UnitIn = TypeVar("UnitIn", contravariant=True)
ResultOut = TypeVar("ResultOut", covariant=True)


@runtime_checkable
class Worker(Protocol[UnitIn, ResultOut]):
    """Builds, inside the worker's process, the function that does the work."""

    def build(self) -> Callable[[UnitIn], ResultOut]:
        """Make the function; called once per worker."""
        ...


@dataclass(frozen=True, slots=True)
class Resources:
    """What one worker occupies."""

    num_cpus: float = 1.0
    num_gpus: float = 0.0


ONE_CPU: Final = Resources()


@runtime_checkable
class Engine(Protocol):
    """Runs units on some number of workers."""

    @property
    def name(self) -> str:
        """As in `--engine`."""
        ...

    @property
    def has_gpu(self) -> bool:
        """Whether its workers must ask for a GPU to see one."""
        ...

    def run(
        self, spec: Worker[Unit, Result], units: Sequence[Unit], resources: Resources = ONE_CPU
    ) -> Iterator[tuple[int, Result]]:
        """Yield (index of the unit, its result) in the order of completion."""
        ...


@runtime_checkable
class Progress(Protocol):
    """Told how far a stage is; what it does with it is the command line's business."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """`done` of `total` units of a stage are finished."""
        ...


def no_progress(stage: str, done: int, total: int) -> None:
    """Tell nobody."""


def run_in_order(
    engine: Engine,
    spec: Worker[Unit, Result],
    units: Sequence[Unit],
    stage: str,
    progress: Progress = no_progress,
    resources: Resources = ONE_CPU,
) -> list[Result]:
    """Run all units of a stage; the results come in the order of the units."""
    if not units:
        return []
    results: dict[int, Result] = {}
    progress(stage, 0, len(units))
    for index, result in engine.run(spec, units, resources):
        results[index] = result
        progress(stage, len(results), len(units))
    return [results[index] for index in range(len(units))]


class SerialEngine:
    """One unit after the other, in this process: the reference that the other engines must equal."""

    name = "serial"
    has_gpu = False

    def run(
        self, spec: Worker[Unit, Result], units: Sequence[Unit], resources: Resources = ONE_CPU
    ) -> Iterator[tuple[int, Result]]:
        """See `Engine.run`."""
        if not units:
            return
        work = spec.build()
        for index, unit in enumerate(units):
            yield index, work(unit)
