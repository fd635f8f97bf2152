"""Runs the variants of a sweep on an engine: a variant is a unit, and no unit ends the sweep.

What a run raises becomes its row, with its type, and the others go on. A run whose worker died (a machine
was lost, memory ran out) goes on elsewhere from its last checkpoint; when it has killed four workers its row
says so (see `Divisible`). A finished run is read from its folder; a failed one is tried again by the next
sweep, from its last checkpoint. What is left out: a machine that is cut off may go on training in the folder
of a run that has moved; both write the same steps, and the one that comes second to a checkpoint fails.
"""

import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pipelines.engine import (
    MAX_TRIES,
    Engine,
    Progress,
    Resources,
    draw_pause_s,
    no_progress,
    run_as_finished,
)
from pipelines.sweep.store import read_outcome, write_outcome
from schemas.errors import PipelineError, TransientError, WorkerLostError
from schemas.sweep import Outcome, SweepResources, SweepRow, Variant, VariantError

ERROR_NAME: Final = "error.txt"
"""In the folder of a run that raised an error which is none of this project's: where it was raised."""


@dataclass(frozen=True, slots=True)
class VariantUnit:
    """A run, as it is handed to a worker."""

    variant: Variant
    is_deadly: bool = False
    """It killed its workers."""


@dataclass(frozen=True, slots=True)
class VariantWorker:
    """Trains variants, one after the other; see `Divisible` for those that kill."""

    train: Callable[[Variant], Outcome]
    """From the last checkpoint, where there is one; a function of a module, which workers import."""

    def build(self) -> Callable[[VariantUnit], SweepRow]:
        """See `Worker.build`."""
        return self._run

    def divide(self, unit: VariantUnit) -> Sequence[VariantUnit]:
        """The run itself: once more it goes on from its last checkpoint."""
        return (unit,)

    def exclude(self, unit: VariantUnit, killers: Sequence[VariantUnit]) -> VariantUnit:
        """See `Divisible.exclude`."""
        return replace(unit, is_deadly=bool(killers))

    def _run(self, unit: VariantUnit) -> SweepRow:
        variant = unit.variant
        if unit.is_deadly:
            error = WorkerLostError(
                "its workers died again and again; mostly memory: give it more, or a smaller batch"
            )
            return _fail(variant, error)
        for num_tries in range(1, MAX_TRIES + 1):
            try:
                return _finish(variant, self._find_or_train(variant))
            except TransientError as error:
                if num_tries == MAX_TRIES:
                    return _fail(variant, error)
                time.sleep(draw_pause_s(num_tries))
            except Exception as error:  # noqa: BLE001 - the other runs go on, whatever it was
                return _fail(variant, error)
        raise AssertionError("the last try returns")

    def _find_or_train(self, variant: Variant) -> Outcome:
        folder = Path(variant.config.out)
        found = read_outcome(folder)
        if found is None:
            found = self.train(variant)
            write_outcome(folder, found)
        _clear(variant)
        return found


def run_variants(
    variants: Sequence[Variant],
    worker: VariantWorker,
    engine: Engine,
    resources: SweepResources,
    progress: Progress = no_progress,
) -> Iterator[tuple[int, SweepRow]]:
    """Yield (place in `variants`, row): first those that were finished before, then each as it ends.

    Raises:
        WorkerLostError: workers do not start.
        WorkError: the cluster has no room for one.
        CorruptError: the outcome of a run is not as it was written.
    """
    finished = {
        place: outcome
        for place, variant in enumerate(variants)
        if (outcome := read_outcome(Path(variant.config.out))) is not None
    }
    for place, outcome in finished.items():
        _clear(variants[place])
        yield place, _finish(variants[place], outcome)
    places = [place for place in range(len(variants)) if place not in finished]
    units = [VariantUnit(variants[place]) for place in places]
    needed = Resources(
        num_cpus=resources.cpus,
        num_gpus=resources.gpus,
        memory_bytes=resources.memory or 0,
        unit_limit_s=3600 * resources.hours,
    )
    for index, row in run_as_finished(engine, worker, units, "sweep", progress, needed):
        yield places[index], row


def make_row(variant: Variant) -> SweepRow:
    """The row of a run that waits."""
    return SweepRow(name=variant.name, digest=variant.digest, changes=variant.changes)


def _finish(variant: Variant, outcome: Outcome) -> SweepRow:
    return make_row(variant).model_copy(update={"outcome": outcome})


def _clear(variant: Variant) -> None:
    """Remove what a finished run no longer needs."""
    folder = Path(variant.config.out)
    (folder / ERROR_NAME).unlink(missing_ok=True)
    if not variant.keep_checkpoint:
        from pipelines.train.checkpoint import remove_old_checkpoints

        remove_old_checkpoints(folder, 0)


def _fail(variant: Variant, error: Exception) -> SweepRow:
    folder = Path(variant.config.out)
    folder.mkdir(parents=True, exist_ok=True)
    if not isinstance(error, PipelineError):
        (folder / ERROR_NAME).write_text("".join(traceback.format_exception(error)), "utf-8")
    told = VariantError(kind=type(error).__name__, message=str(error))
    return make_row(variant).model_copy(update={"error": told})
