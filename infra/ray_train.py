"""Several processes of one training run as workers of Ray Train.

Ray starts the workers, joins them in a process group and starts them again when one is lost, fewer where the
cluster has no room for all. What they do is a function that runs in each: it finds its own last checkpoint in
storage that all of them see, so Ray keeps none.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.ray_cluster import check_source, source_digest
from schemas.errors import ConfigError, WorkError


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


def run_on_workers(
    work: Callable[[dict[str, Any]], None],
    arguments: dict[str, Any],
    *,
    num_workers: int,
    use_gpu: bool,
    folder: Path,
    max_failures: int,
) -> None:
    """Run `work` on every worker until all of them have ended well; a Ray cluster must be joined.

    Args:
        work: a function of a module; is called with `arguments` in every worker.
        arguments: plain values.
        num_workers: at the start; after a failure as many of them as there is room for.
        use_gpu: one for each worker.
        folder: where Ray keeps its own notes.
        max_failures: starts again at most so often.

    Raises:
        WorkError: workers failed too often; with what they said last.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    trainer: Any = TorchTrainer(
        _checked,
        train_loop_config={"work": work, "arguments": arguments, "source": source_digest()},
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=num_workers if num_workers == 1 else (1, num_workers), use_gpu=use_gpu
        ),
        run_config=RunConfig(
            name="train",
            storage_path=str(folder.resolve()),
            failure_config=FailureConfig(max_failures=max_failures),
        ),
    )
    try:
        trainer.fit()
    except Exception as error:
        raise WorkError(f"training on {num_workers} workers failed: {error}") from error


def _checked(loop: dict[str, Any]) -> None:
    """A worker's start: only with the driver's sources."""
    check_source(loop["source"])
    loop["work"](loop["arguments"])
