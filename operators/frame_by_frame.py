"""Trained reducers on a CPU: one frame at a time, so that batch mates change no bit.

Matrix kernels of a CPU differ between batch sizes, and with them the last bits. A frame alone always meets
the same kernels. On a GPU, where speed matters more, all frames go together, and sizes differ in those bits.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def apply_by_frame(
    function: Callable[[Tensor], Tensor], frames: Float[Tensor, "frames views patches width"]
) -> Float[Tensor, "frames queries width"]:
    """`function` of all frames, on a CPU each by itself."""
    if frames.device.type != "cpu" or frames.shape[0] < 2:
        return function(frames)
    return torch.cat([function(frames[place : place + 1]) for place in range(frames.shape[0])])
