"""Rendered views to encoder input on the device that encodes them.

Apart from `operators.preprocess`, which decoding processes import and which therefore loads no torch.
"""

from functools import cache

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from operators.preprocess import Processor, normalization_table


def copy_to_gpu(
    rendered: UInt8[np.ndarray, "views height width 3"], device: torch.device
) -> UInt8[Tensor, "views height width 3"]:
    """Views on a GPU, copied from pinned memory while it computes what it was given before."""
    copies, current = _copy_stream(device), torch.cuda.current_stream(device)
    with torch.cuda.stream(copies):
        views = torch.as_tensor(rendered).pin_memory().to(device, non_blocking=True)
    current.wait_stream(copies)
    views.record_stream(current)
    return views


@cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def normalize_on_device(
    rendered: UInt8[Tensor, "views height width 3"], processor: Processor
) -> Float32[Tensor, "views 3 height width"]:
    """`operators.preprocess.normalize_views` where the views are: the same bits, a quarter to carry."""
    table = torch.as_tensor(normalization_table(processor)).to(rendered.device)
    levels = rendered.int()
    return torch.stack([table[channel][levels[..., channel]] for channel in range(3)], dim=1)
