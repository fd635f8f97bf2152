"""The time between the parts of a piece of work, on the device that does it.

A CPU has done a part when the call returns. A GPU is only told of it: its own events are recorded behind each
part, and read once, when all is done, so that measuring adds no waiting between the parts.
"""

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Protocol, cast, runtime_checkable

import torch

Work = Callable[[], None]


@runtime_checkable
class Stopwatch(Protocol):
    """Times parts that follow each other."""

    def time(self, parts: Sequence[Work]) -> tuple[float, ...]:
        """Seconds of each part, done one after the other."""
        ...


class CpuStopwatch:
    """For work that is done when its call returns."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock

    def time(self, parts: Sequence[Work]) -> tuple[float, ...]:
        """Seconds of each part, by a clock read between them."""
        marks = [self._clock()]
        for part in parts:
            part()
            marks.append(self._clock())
        return tuple(end - start for start, end in pairwise(marks))


class CudaStopwatch:
    """For work that a GPU does in its own time; begins when it is idle."""

    def time(self, parts: Sequence[Work]) -> tuple[float, ...]:
        """Seconds of each part, by events on the current stream."""
        torch.cuda.synchronize()
        marks = [self._mark()]
        for part in parts:
            part()
            marks.append(self._mark())
        torch.cuda.synchronize()
        return tuple(1e-3 * cast(float, start.elapsed_time(end)) for start, end in pairwise(marks))

    def _mark(self) -> Any:  # noqa: ANN401 - torch's event has no types
        event = cast(Any, torch.cuda.Event)(enable_timing=True)
        event.record()
        return event


def choose_stopwatch(device: torch.device) -> Stopwatch:
    """That of a device."""
    return CudaStopwatch() if device.type == "cuda" else CpuStopwatch()
