"""The processes that train one model together: alone, under torchrun, or as workers of Ray Train.

All of them run the same loop. They speak over NCCL between GPUs, over gloo between CPUs. Numbers that decide
a step (how many tokens are learned, how often vision modules run, whether to stop) are agreed on before it,
in one small exchange: what one process did differently would leave the others waiting for ever.
"""

import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, cast

import torch
import torch.distributed as dist

PATIENCE: Final = timedelta(minutes=30)
"""How long a process waits for the others before it gives up."""


@dataclass(frozen=True, slots=True)
class Processes:
    """Which of how many this process is, and what they tell each other."""

    rank: int = 0
    world_size: int = 1
    num_nodes: int = 1
    """Machines that they run on."""

    @property
    def is_first(self) -> bool:
        """Whether this process speaks for all: it logs, and writes checkpoints."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether there are no others."""
        return self.world_size == 1

    def add(self, values: Sequence[float | int]) -> list[float | int]:
        """The sums over all processes, in float64."""
        return self._reduce(values, dist.ReduceOp.SUM)

    def largest(self, values: Sequence[float | int]) -> list[float | int]:
        """The largest of all processes, place by place."""
        return self._reduce(values, dist.ReduceOp.MAX)

    def collect(self, words: Sequence[str]) -> list[str]:
        """The words of all processes, in the order of their ranks."""
        if self.is_alone:
            return list(words)
        told: list[list[str]] = [[] for _ in range(self.world_size)]
        cast(Any, dist).all_gather_object(told, list(words))
        return [word for one in told for word in one]

    def wait(self) -> None:
        """Come back when all processes are here."""
        self.add([0.0])

    def _reduce(self, values: Sequence[float | int], operation: object) -> list[float | int]:
        if self.is_alone:
            return list(values)
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        agreed = torch.tensor(values, dtype=torch.float64, device=device)
        cast(Any, dist).all_reduce(agreed, op=operation)
        return cast("list[float | int]", agreed.tolist())  # pyright: ignore[reportUnknownMemberType]


ALONE: Final = Processes()


@contextmanager
def join_processes(device_type: str) -> Generator[Processes]:
    """Join those that torchrun or Ray Train started with this one; alone where nobody did.

    A group that stands already is joined and left standing.
    """
    if dist.is_initialized():
        yield _describe_place()
        return
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    if device_type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    backend = "nccl" if device_type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE)
    try:
        yield _describe_place()
    finally:
        dist.destroy_process_group()


def count_awaited() -> int:
    """How many processes the first one will join, with itself; 0 for others, and where they have met."""
    is_first = os.environ.get("RANK", "0") == "0"
    return int(os.environ.get("WORLD_SIZE", "1")) if is_first and not dist.is_initialized() else 0


def _describe_place() -> Processes:
    """Machines are counted as if all had as many processes as this one."""
    world_size = dist.get_world_size()
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", str(world_size)))
    return Processes(dist.get_rank(), world_size, num_nodes=-(-world_size // beside))
