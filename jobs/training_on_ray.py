"""`onetoken train --engine ray`: the same loop in workers of Ray Train, started again when one is lost.

Checkpoints, corpus and language model must lie where every worker sees them; relative paths are those of this
process. A worker that starts goes on from the last checkpoint below `out`, with however many workers there
are: the order of examples and the loss do not depend on their number. SIGTERM reaches the workers as a file
beside the checkpoints, which they look for after every step.
"""

import contextlib
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any, Final, cast

from infra.ray_cluster import ray_cluster
from infra.ray_train import WorkerPlan, run_on_workers
from jobs.console import LOG_EVERY_S, Reporter
from jobs.stopping import SoftStop
from schemas.errors import CorruptError
from schemas.training import TrainConfig

MAX_FAILURES: Final = 3
"""Starts in a row that may end without a new checkpoint."""
STOP_NAME: Final = "stop"


def train_on_ray(config: TrainConfig, num_workers: int, ray_address: str | None, *, resume: bool) -> None:
    """Train on a cluster, or on one that is started here.

    Raises:
        ConfigError: each worker needs more than `memory.limit`.
        ConflictError: `out` holds checkpoints and `resume` is not asked for.
        PipelineError: what a worker raised, where another start would not help.
        WorkError: workers failed too often without a new checkpoint.
    """
    from jobs.training import check_memory, find_start
    from pipelines.train.checkpoint import latest_checkpoint

    out = Path(config.out).resolve()
    find_start(out, resume=resume)
    with Reporter() as reporter:
        check_memory(config, num_workers, reporter)
    notes = out / "ray"
    notes.mkdir(parents=True, exist_ok=True)
    stop = notes / STOP_NAME
    stop.unlink(missing_ok=True)
    absolute = config.model_copy(update={"out": str(out)})
    num_cpus = None if ray_address else num_workers
    with (
        Reporter() as reporter,
        SoftStop(config.run.stop_within_s, stop.touch),
        ray_cluster(ray_address, num_cpus),
        _watched(out, reporter),
    ):
        run_on_workers(
            train_in_worker,
            {"config": absolute.model_dump(mode="json"), "stop": str(stop)},
            WorkerPlan(
                num_workers=num_workers,
                use_gpu=_wants_gpus(config),
                folder=notes,
                max_failures=MAX_FAILURES,
            ),
            progress=lambda: latest_checkpoint(out),
            say=reporter.say,
        )


def train_in_worker(arguments: dict[str, Any]) -> None:
    """One worker: resumes always, since it may be the second one of its place."""
    from jobs.training import run_training

    config, stop = TrainConfig.model_validate(arguments["config"]), Path(arguments["stop"])
    with Reporter() as reporter:
        run_training(config, reporter, resume=True, shall_stop=stop.exists)


@contextlib.contextmanager
def _watched(out: Path, reporter: Reporter) -> Generator[None]:
    """Tell the steps of a run now and then, by what it keeps below `out`."""
    from pipelines.train.metrics import read_last_report

    is_over, told = threading.Event(), read_last_report(out)

    def watch() -> None:
        last = told
        while not is_over.wait(LOG_EVERY_S):
            with contextlib.suppress(CorruptError):  # the workers tell it
                report = read_last_report(out)
                if report is not None and report != last:
                    reporter.say(f"step {report.step}: {report.in_words}")
                last = report

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _wants_gpus(config: TrainConfig) -> bool:
    """Whether each worker gets a GPU; `auto` asks the cluster, for this machine may have none."""
    import ray

    has_gpus = "GPU" in cast(Any, ray).cluster_resources()
    return config.run.device == "cuda" or (config.run.device == "auto" and has_gpus)
