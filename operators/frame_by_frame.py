"""Trained reducers on a CPU: one frame at a time, so that batch mates change no bit.

Matrix kernels of a CPU differ between batch sizes, and with them the last bits. A frame alone always meets
the same kernels. On a GPU, where speed matters more, all frames go together, and sizes differ in those bits.
So they do on a CPU for who asks what a GPU would hold.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

_TOGETHER: Final = ContextVar("together", default=False)


@contextmanager
def all_together() -> Generator[None]:
    """For as long as the block, frames go together on a CPU, too."""
    token = _TOGETHER.set(True)
    try:
        yield
    finally:
        _TOGETHER.reset(token)


def apply_by_frame(
    function: Callable[[Tensor], Tensor], frames: Float[Tensor, "frames views patches width"]
) -> Float[Tensor, "frames queries width"]:
    """`function` of all frames, on a CPU each by itself."""
    if frames.device.type != "cpu" or frames.shape[0] < 2 or _TOGETHER.get():
        return function(frames)
    return torch.cat([function(frames[place : place + 1]) for place in range(frames.shape[0])])
