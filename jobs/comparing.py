"""`onetoken analyze live`: a training run from the cache, and the same with the encoder in the loop."""

import tempfile
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.console import Reporter, print_result
from jobs.options import ConfigArgument, JsonOption, read_configuration
from jobs.totals import in_mebibytes, in_table
from schemas.errors import ConflictError, WorkError
from schemas.training import LiveConfig, TrainConfig

if TYPE_CHECKING:
    from pipelines.analyze.two_runs import Comparison

HELP = "A training run from the cache against the same from media: losses, time and memory."


def live_command(
    config: ConfigArgument,
    steps: Annotated[int, typer.Option("--steps", metavar="N", min=1, help="Steps of both runs.")] = 20,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="A new folder where both runs are kept; by default a temporary one.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """See the help in the registration."""
    from pipelines.analyze.two_runs import compare_runs

    checked = read_configuration(config, TrainConfig)
    with ExitStack() as kept:
        folder = out or Path(kept.enter_context(tempfile.TemporaryDirectory(prefix="onetoken-live-")))
        if folder.exists() and any(folder.iterdir()):
            raise ConflictError(f"{folder} holds files; name a new folder")
        folders: list[Path] = []
        for name, live in (("cached", None), ("live", checked.live or LiveConfig())):
            folders.append(folder / name)
            train_apart(shorten(checked, steps, folders[-1], live))
        comparison = compare_runs(*folders)
    values = asdict(comparison) | {
        "is_equal": comparison.is_equal,
        "largest_difference": comparison.largest_difference,
    }
    print_result(in_words(comparison), as_json, values)


def shorten(config: TrainConfig, steps: int, out: Path, live: LiveConfig | None) -> TrainConfig:
    """The first steps of a run, each of them logged, with or without the encoder."""
    changes: dict[str, object] = {
        "steps": steps,
        "epochs": None,
        "log_every": 1,
        "save_every": steps,
        "evaluate_every": None,
    }
    run = config.run.model_copy(update=changes)
    return config.model_copy(update={"out": str(out), "live": live, "run": run})


def train_apart(config: TrainConfig) -> None:
    """Train in a process of its own, so that its memory is the run's alone.

    Raises:
        PipelineError: what the run raised.
        WorkError: the process died.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            pool.submit(_train, config.model_dump(mode="json")).result()
        except BrokenProcessPool as error:
            raise WorkError(f"the process that trained into {config.out} died: {error}") from error


def _train(config: dict[str, object]) -> None:
    from jobs.training import run_training

    with Reporter() as reporter:
        run_training(TrainConfig.model_validate(config), reporter, resume=False)


def in_words(comparison: "Comparison") -> list[str]:
    """A row for each run, and what became of the losses."""
    rows = [
        (
            name,
            f"{run.losses[0]:.4f}",
            f"{run.losses[-1]:.4f}",
            f"{run.step_s:.3f}",
            f"{run.wait_s:.3f}",
            in_mebibytes(run.memory_bytes),
        )
        for name, run in (("cached", comparison.cached), ("live", comparison.live))
    ]
    table = in_table(("run", "first loss", "last loss", "s a step", "of them waiting", "memory"), rows)
    if comparison.is_equal:
        said = "all losses are equal to the last bit"
    else:
        said = f"losses differ by {comparison.largest_difference:.2g} at most"
    slower = comparison.live.step_s / comparison.cached.step_s
    return [
        *table,
        f"{len(comparison.live.losses)} steps: {said}; a live step takes {slower:.2f} times a cached one",
    ]
