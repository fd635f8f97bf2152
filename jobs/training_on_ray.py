"""`onetoken train --engine ray`: the same loop in workers of Ray Train, which replaces those that are lost.

Checkpoints, corpus and language model must lie where every worker sees them. A worker that starts goes on
from the last checkpoint below `out`, with however many workers there are: the order of examples and the loss
do not depend on their number.
"""

from pathlib import Path
from typing import Any, Final

from infra.ray_cluster import ray_cluster
from infra.ray_train import run_on_workers
from jobs.console import Reporter
from schemas.training import TrainConfig

MAX_FAILURES: Final = 8


def train_on_ray(config: TrainConfig, num_workers: int, ray_address: str | None, *, resume: bool) -> None:
    """Train on a cluster, or on one that is started here.

    Raises:
        ConflictError: `out` holds checkpoints and `resume` is not asked for.
        WorkError: workers failed too often.
    """
    import torch

    from jobs.training import find_start

    out = Path(config.out).resolve()
    find_start(out, resume=resume)
    absolute = config.model_copy(update={"out": str(out)})
    with ray_cluster(ray_address, None if ray_address else max(num_workers, 1)):
        run_on_workers(
            train_in_worker,
            {"config": absolute.model_dump(mode="json")},
            num_workers=num_workers,
            use_gpu=config.run.device != "cpu" and torch.cuda.is_available(),
            folder=out / "ray",
            max_failures=MAX_FAILURES,
        )


def train_in_worker(arguments: dict[str, Any]) -> None:
    """One worker: resumes always, since it may be the second one of its place."""
    from jobs.training import run_training

    with Reporter() as reporter:
        run_training(TrainConfig.model_validate(arguments["config"]), reporter, resume=True)
