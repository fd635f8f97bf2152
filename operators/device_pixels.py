"""Rendered views to encoder input on the device that encodes them.

Apart from `operators.preprocess`, which decoding processes import and which therefore loads no torch.
"""

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from operators.preprocess import Processor, normalization_table


def normalize_on_device(
    rendered: UInt8[Tensor, "views height width 3"], processor: Processor
) -> Float32[Tensor, "views 3 height width"]:
    """`operators.preprocess.normalize_views` where the views are: the same bits, a quarter to carry."""
    table = torch.as_tensor(normalization_table(processor)).to(rendered.device)
    levels = rendered.int()
    return torch.stack([table[channel][levels[..., channel]] for channel in range(3)], dim=1)
