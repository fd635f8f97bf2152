"""Several processes of one training run as workers of Ray Train.

Ray starts the workers, joins them in a process group and notices when one is lost. What they do is a
function that runs in each: it finds its own last checkpoint in storage that all of them see, so Ray keeps
none. After a loss all of them start again, as many as there is room for once patience is over. That loop is
here and not Ray's: Ray tries again whatever a worker raises, a mistyped configuration as well as a lost
machine, and its elastic mode also stops healthy workers to change their number. What a worker would raise
again ends the run with it. Leaves out: more workers when a machine comes back, before the next failure.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from infra.ray_cluster import check_source, source_digest
from schemas.errors import ConfigError, PipelineError, TransientError, WorkError

ROOM_PATIENCE_S: Final = 60.0
"""How long a start waits for room for all; a head misses a silent machine after half of it."""
_LOOK_S: Final = 0.2
"""For which even a late place is waited for: the answer takes a moment."""


@dataclass(frozen=True, slots=True)
class WorkerPlace:
    """Which worker of how many this process is, on how many machines."""

    rank: int
    world_size: int
    num_nodes: int


def find_worker_place() -> WorkerPlace:
    """The place of this process among the workers of Ray Train.

    Raises:
        ConfigError: when it is none of them.
    """
    from ray.train import get_context

    try:
        context: Any = get_context()
        rank, size, local = map(
            int, (context.get_world_rank(), context.get_world_size(), context.get_local_world_size())
        )
    except RuntimeError as error:
        raise ConfigError("this process is no worker of Ray Train; let a trainer start it") from error
    return WorkerPlace(rank, size, -(-size // local))


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPlan:
    """How many workers there are, of what kind, and how long they are started again."""

    num_workers: int
    """At every start, or as many of them as there is room for."""
    use_gpu: bool
    """One for each worker."""
    folder: Path
    """Where Ray keeps its own notes."""
    max_failures: int
    """So many starts in a row may fail without progress."""
    patience_s: float = ROOM_PATIENCE_S
    """How long a start waits for room for all workers."""

    @property
    def resources(self) -> dict[str, float]:
        """What a worker takes of its machine."""
        return {"GPU": 1.0} if self.use_gpu else {"CPU": 1.0}


def run_on_workers(
    work: Callable[[dict[str, Any]], None],
    arguments: dict[str, Any],
    plan: WorkerPlan,
    *,
    progress: Callable[[], object] = bool,
    say: Callable[[str], object] = bool,
) -> None:
    """Run `work` on every worker until all of them have ended well; a Ray cluster must be joined.

    Args:
        work: a function of a module; is called with `arguments` in every worker, in this process's folder
            where there is one of its name.
        arguments: plain values.
        plan: how many workers, and how often.
        progress: what has been kept so far; while it changes, failures are not counted.
        say: is told of losses and of missing room.

    Raises:
        PipelineError: what a worker raised, where another start would not help.
        WorkError: workers failed too often; with what they said last.
    """
    failures, kept = 0, progress()
    while True:
        try:
            _run_once(work, arguments, plan, say)
        except Exception as error:
            if reason := find_reason(error):
                raise reason from error
            before, kept = kept, progress()
            failures = failures + 1 if kept == before else 1
            if failures > plan.max_failures:
                raise WorkError(f"training on {plan.num_workers} workers failed: {error}") from error
            say(f"workers failed and are started again: {_name_failures(error)}")
        else:
            return


def find_reason(error: Exception) -> PipelineError | None:
    """What would be raised again, here or by a worker; None where workers were lost or may do better."""
    for reason in (error, *_failures_of(error).values()):
        if isinstance(reason, PipelineError) and not isinstance(reason, TransientError):
            return reason
    return None


def _run_once(
    work: Callable[[dict[str, Any]], None],
    arguments: dict[str, Any],
    plan: WorkerPlan,
    say: Callable[[str], object],
) -> None:
    """One start, with as many workers as there is room for."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    room = count_room(plan)
    if room < plan.num_workers:
        say(f"the cluster has room for {room} of {plan.num_workers} workers")
    if not room:
        raise TransientError("the cluster has room for no worker")
    loop = {"work": work, "arguments": arguments, "source": source_digest(), "folder": str(Path.cwd())}
    trainer: Any = TorchTrainer(
        _checked,
        train_loop_config=loop,
        torch_config=TorchConfig(backend="nccl" if plan.use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=room, use_gpu=plan.use_gpu, resources_per_worker=plan.resources
        ),
        run_config=RunConfig(
            name="train",
            storage_path=str(plan.folder.resolve()),
            failure_config=FailureConfig(
                max_failures=0, controller_failure_limit=0, max_preemption_failures=0
            ),
        ),
    )
    with _own_interrupt():
        trainer.fit()


@contextlib.contextmanager
def _own_interrupt() -> Generator[None]:
    """Ray sets a handler for SIGINT, keeps it, and leaves with status 0; ours comes back, and is told."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as left:
        raise KeyboardInterrupt from left
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


def count_room(plan: WorkerPlan) -> int:
    """How many of the workers have a place, once all of them have or patience is over.

    Places are asked for as Ray Train will ask, so a cluster that grows by itself hears of it, and given back.
    """
    from ray.util import placement_group, remove_placement_group

    ask, give_back = cast(Any, placement_group), cast(Any, remove_placement_group)
    groups = [ask([plan.resources]) for _ in range(plan.num_workers)]
    deadline = time.monotonic() + plan.patience_s
    try:
        return sum(bool(group.wait(max(_LOOK_S, deadline - time.monotonic()))) for group in groups)
    finally:
        for group in groups:
            give_back(group)


def _failures_of(error: Exception) -> Mapping[int, Exception]:
    """What workers raised, by rank."""
    return cast("Mapping[int, Exception]", getattr(error, "worker_failures", {}))


def _name_failures(error: Exception) -> str:
    """Errors in a line, without their tracebacks."""
    told = [f"worker {rank}: {_first_line(one)}" for rank, one in sorted(_failures_of(error).items())]
    return "; ".join(told) or _first_line(error)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _checked(loop: dict[str, Any]) -> None:
    """A worker's start: only with the driver's sources, and in its folder, not in one that Ray has made."""
    check_source(loop["source"])
    if Path(loop["folder"]).is_dir():
        os.chdir(loop["folder"])
    loop["work"](loop["arguments"])
