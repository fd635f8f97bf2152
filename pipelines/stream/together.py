"""Ranks that stop together: where one cannot read its part of a step, all raise the same error.

Without it the others would wait in their next collective for a rank that is gone, until a time-out that says
nothing of the shard. Before each step is handed out, every rank says whether it has it: one all-reduce of one
number, some 0.1 ms between processes of one machine, over a group of the `gloo` backend, for it must not wait
for the device.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, Generic, Protocol, TypeVar, cast, runtime_checkable

import torch
import torch.distributed

from schemas.errors import (
    ConfigError,
    ConflictError,
    CorruptError,
    MismatchError,
    NoSpaceError,
    NotFoundError,
    PipelineError,
    StorageUnavailableError,
    WorkerLostError,
    WorkError,
)

Step = TypeVar("Step")
StepOut = TypeVar("StepOut", covariant=True)


@runtime_checkable
class _Stream(Protocol[StepOut]):
    """What a `FeatureStream` is to whoever trains from it."""

    def __iter__(self) -> Iterator[StepOut]: ...

    def state_dict(self) -> Mapping[str, int | str]: ...

    def load_state_dict(self, state: Mapping[str, object]) -> None: ...


_distributed: Any = torch.distributed
_KINDS: Final = {
    kind.__name__: kind
    for kind in (
        ConfigError,
        ConflictError,
        MismatchError,
        NoSpaceError,
        NotFoundError,
        StorageUnavailableError,
        WorkError,
        WorkerLostError,
    )
}
"""What a step can fail with besides damage."""


class StoppingTogether(Generic[Step]):
    """A stream whose ranks stop together."""

    def __init__(self, stream: _Stream[Step], group: object | None = None) -> None:
        """Join a stream of each rank.

        Args:
            stream: of this rank.
            group: see `stop_together`.
        """
        self._stream = stream
        self._group = group

    def __iter__(self) -> Iterator[Step]:
        """The stream's steps.

        Raises:
            PipelineError: on every rank of the kind of the first rank that failed, with what that said.
        """
        return stop_together(iter(self._stream), self._group)

    def state_dict(self) -> Mapping[str, int | str]:
        """Of the stream."""
        return self._stream.state_dict()

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Of the stream."""
        self._stream.load_state_dict(state)


def open_cpu_group() -> object | None:
    """A group of all processes that speaks between CPUs; every process has to ask for it."""
    return None if _distributed.get_backend() == "gloo" else _distributed.new_group(backend="gloo")


def stop_together(steps: Iterator[Step], group: object | None = None) -> Iterator[Step]:
    """The same steps; every rank of the group must take as many.

    Args:
        steps: of this rank.
        group: a process group of CPU tensors; None: the default one.

    Raises:
        CorruptError: on every rank, with what the first rank that failed said.
        StorageUnavailableError: the same, where another try may do better.
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
    said: list[tuple[str, str] | None] = [None] * int(_distributed.get_world_size(group))
    mine = None if failure is None else (type(failure).__name__, str(failure))
    _distributed.all_gather_object(said, mine, group=group)
    rank, (kind, message) = next((index, told) for index, told in enumerate(said) if told is not None)
    return _KINDS.get(kind, CorruptError)(f"rank {rank} cannot read its part of a step: {message}")
