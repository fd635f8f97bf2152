"""`onetoken train`: stage 1 or 2 from cached features, or from media with the encoder in the loop."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.console import Reporter, print_result
from jobs.options import ConfigArgument, JsonOption, RayAddressOption, read_configuration
from jobs.stopping import SoftStop
from jobs.totals import in_counts
from jobs.training_context import check_context
from jobs.training_data import (
    count_left_out,
    count_tokens,
    hold_out,
    name_held_out,
    open_held_out,
    open_reader,
    open_stream,
    open_training_data,
)
from pipelines.engine import SerialEngine
from schemas.errors import ConfigError, ConflictError
from schemas.training import TrainConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipelines.train.checkpoint import Checkpoint
    from pipelines.train.metrics import StepReport
    from pipelines.train.processes import Processes


class TrainEngine(StrEnum):
    """Who starts the processes that train."""

    LOCAL = "local"
    RAY = "ray"


TrainEngineOption = Annotated[
    TrainEngine, typer.Option("--engine", help="local: this process, or those of torchrun; ray: Ray Train.")
]
TrainWorkersOption = Annotated[
    int,
    typer.Option(
        "--workers", metavar="N", min=1, help="Workers of Ray Train, each with a GPU if there are any."
    ),
]


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What a run ended with."""

    checkpoint: Path
    num_steps: int
    first_loss: float
    """Mean over the first tenth of the logged steps."""
    last_loss: float
    """Mean over the last tenth."""
    left_out: dict[str, int]
    """Examples that were not trained on, by reason."""
    is_first: bool = True
    """Of several processes this is the one that speaks."""

    def lines(self, stage: int) -> list[str]:
        """The result in words."""
        lines: list[str] = []
        if self.left_out:
            lines.append(f"  left out: {in_counts(self.left_out)}")
        fall = f"mean loss of the first and last tenth {self.first_loss:.3f} -> {self.last_loss:.3f}"
        lines.append(f"stage {stage}: {self.num_steps} steps, {fall}, checkpoint {self.checkpoint}")
        return lines

    def values(self) -> dict[str, object]:
        """The result as plain values."""
        return {
            "checkpoint": str(self.checkpoint),
            "steps": self.num_steps,
            "first_loss": self.first_loss,
            "last_loss": self.last_loss,
            "left_out": self.left_out,
        }


def register(app: typer.Typer) -> None:
    """Add the verbs of this module."""
    app.command("train", help="Train stage 1 or 2 from cached features.")(train_command)


def train_command(
    config: ConfigArgument,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint below `out`.")
    ] = False,
    engine: TrainEngineOption = TrainEngine.LOCAL,
    workers: TrainWorkersOption = 1,
    ray_address: RayAddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """See the help in the registration."""
    checked = read_configuration(config, TrainConfig)
    if engine is TrainEngine.RAY:
        from jobs.training_on_ray import train_on_ray

        train_on_ray(checked, workers, ray_address, resume=resume)
        print_result([f"the checkpoints lie in {checked.out}"], as_json, {"out": checked.out})
        return
    if workers != 1 or ray_address is not None:
        raise ConfigError(
            "--workers and --ray-address go with --engine ray; for several processes of this machine write "
            "torchrun --nproc-per-node N --no-python onetoken train CONFIG"
        )
    with Reporter() as reporter, SoftStop(checked.run.stop_within_s) as stop:
        result = run_training(checked, reporter, resume=resume, shall_stop=stop.is_asked)
    if result.is_first:
        print_result(result.lines(checked.stage), as_json, result.values())


def run_training(
    config: TrainConfig,
    reporter: Reporter,
    *,
    resume: bool,
    shall_stop: "Callable[[], bool]" = bool,
) -> TrainingResult:
    """Train from a corpus's features, from the beginning or from the last checkpoint.

    Processes that torchrun or Ray Train started join in; the first one speaks.

    Args:
        config: of the run.
        reporter: is told how far it is.
        resume: from the last checkpoint below `out`.
        shall_stop: asked after every step; when it is true, the run saves and ends.

    Raises:
        ConfigError: when `out` is a file, the GPU has no bfloat16 and the run asks for it, or the run needs
            more memory than `memory.limit`.
        ConflictError: when `out` holds checkpoints and `resume` is not asked for.
    """
    from pipelines.train.precision import check_precision, choose_device
    from pipelines.train.processes import count_awaited, join_processes

    if num_processes := count_awaited():
        check_memory(config, num_processes, reporter)
    with join_processes(choose_device(config.run).type) as processes:
        check_precision(config)
        return _train_together(config, reporter, processes, resume=resume, shall_stop=shall_stop)


def check_memory(config: TrainConfig, num_processes: int, reporter: Reporter) -> None:
    """Hold the plan of a run by so many processes against `memory.limit`, if it has one, before they meet.

    Raises:
        ConfigError: each of them needs more.
    """
    if config.memory.limit is not None:
        from jobs.planning_training import plan_training

        reporter.say(plan_training(config, num_workers=num_processes)[0][-1])


def _train_together(
    config: TrainConfig,
    reporter: Reporter,
    processes: "Processes",
    *,
    resume: bool,
    shall_stop: "Callable[[], bool]",
) -> TrainingResult:
    from pipelines.stream.together import StoppingTogether, open_cpu_group
    from pipelines.train.assembly import assemble, restore
    from pipelines.train.checkpoint import check_start_encoder
    from pipelines.train.loop import TrainingRun, train
    from pipelines.train.metrics import read_reports
    from schemas.checkpoint import RunIdentity

    out, group = Path(config.out), None if processes.is_alone else open_cpu_group()
    checkpoint = find_start(out, resume=resume)
    data = open_training_data(config, checkpoint)
    config = name_held_out(config, data.manifest)
    identity = RunIdentity(
        manifest_sha256=data.manifest.digest,
        spec=data.spec,
        encoder=data.manifest.features[data.digest].encoder,
    )
    say = reporter.say if processes.is_first else _say_nothing
    features = data.spec.codec.name if config.live is None else "live, the encoder in the loop"
    say(f"stage {config.stage}: features {data.digest} ({features}), model {config.model.llm}")
    if resume:
        say(f"going on from {checkpoint.folder}" if checkpoint else f"no checkpoint below {out} yet")
    if checkpoint is None and config.model.start_from is not None:
        check_start_encoder(Path(config.model.start_from), data.spec)
    assembly = restore(checkpoint, to_train=True) if checkpoint else assemble(config, data.spec.encoder.width)
    lengths = count_tokens(data, assembly.prompter, SerialEngine(), reporter, processes)
    reader = open_reader(config, data)
    stream = open_stream(config, data, lengths, processes, reader)
    held_out = open_held_out(config, data, lengths, processes, reader)
    streams = [stream] if held_out is None else [stream, held_out]
    check_context(config, data, lengths, assembly.prompter, assembly.model.llm.config, *streams)
    if stream.catalog.left_out:
        say(f"some examples are left out for what they say: {in_counts(stream.catalog.left_out)}")
    num_steps = config.run.steps or sum(stream.num_steps(epoch) for epoch in range(config.epochs or 1))
    run = TrainingRun(
        assembly=assembly,
        config=config,
        source=stream if processes.is_alone else StoppingTogether(stream, group),
        identity=identity,
        num_steps=num_steps,
        processes=processes,
        held_out=hold_out(config, held_out, processes, group),
        shall_stop=shall_stop,
    )
    processes.wait()
    show = _show_step(reporter, config.stage, num_steps) if processes.is_first else None
    folder = train(run, checkpoint, show)
    losses = _mean_losses(read_reports(out))
    left_out = count_left_out(stream)
    return TrainingResult(folder, num_steps, *losses, left_out, is_first=processes.is_first)


def find_start(out: Path, *, resume: bool) -> "Checkpoint | None":
    """The checkpoint below `out` to go on from.

    Raises:
        ConfigError: `out` is a file.
        ConflictError: there is one, and `resume` is not asked for.
    """
    from pipelines.train.checkpoint import latest_checkpoint, open_checkpoint

    if out.exists() and not out.is_dir():
        raise ConfigError(f"`out: {out}` is a file; name a folder")
    found = latest_checkpoint(out)
    if found is not None and not resume:
        raise ConflictError(
            f"{out} holds {found.name} already; pass --resume to go on, or choose another `out`"
        )
    return open_checkpoint(found) if found else None


def _say_nothing(_: str) -> None:
    """For all processes but the first."""


def _show_step(reporter: Reporter, stage: int, num_steps: int) -> "Callable[[StepReport], None]":
    def show(report: "StepReport") -> None:
        reporter.show(f"train stage {stage}", report.step, num_steps, report.in_words)

    return show


def _mean_losses(reports: "Sequence[StepReport]") -> tuple[float, float]:
    """Mean loss of the first and of the last tenth of a run's logged steps."""
    losses = [report.loss for report in reports]
    tenth = max(1, len(losses) // 10)
    return sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth
