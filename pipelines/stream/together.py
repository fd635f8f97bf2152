"""Ranks that stop together: where one cannot read its part of a step, all raise the same error.

Without it the others would wait in their next collective for a rank that is gone, until a time-out that says
nothing of the shard. Before each step is handed out, every rank says whether it has it: one all-reduce of one
number, some 0.1 ms between processes of one machine, over a group of the `gloo` backend, for it must not wait
for the device.
"""

from collections.abc import Iterator
from typing import Any, TypeVar, cast

import torch
import torch.distributed

from schemas.errors import CorruptError, PipelineError

Step = TypeVar("Step")

_distributed: Any = torch.distributed


def stop_together(steps: Iterator[Step], group: object | None = None) -> Iterator[Step]:
    """The same steps; every rank of the group must take as many.

    Args:
        steps: of this rank.
        group: a process group of CPU tensors; None: the default one.

    Raises:
        CorruptError: on every rank, with what the first rank that failed said.
    """
    while True:
        step: Step | None = None
        failure: PipelineError | None = None
        is_over = False
        try:
            step = next(steps)
        except StopIteration:
            is_over = True
        except PipelineError as error:
            failure = error
        told = _tell(failure, group)
        if told is not None:
            raise told from failure
        if is_over:
            return
        yield cast(Step, step)


def _tell(failure: PipelineError | None, group: object | None) -> PipelineError | None:
    """The error of the lowest rank that has one."""
    flag = torch.tensor([0 if failure is None else 1], dtype=torch.int32)
    _distributed.all_reduce(flag, op=_distributed.ReduceOp.MAX, group=group)
    if not int(flag):
        return None
    said: list[str | None] = [None] * int(_distributed.get_world_size(group))
    _distributed.all_gather_object(said, None if failure is None else str(failure), group=group)
    rank = next(index for index, message in enumerate(said) if message is not None)
    return CorruptError(f"rank {rank} cannot read its part of a step: {said[rank]}")
