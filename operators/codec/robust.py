"""Order statistics of channels, and sums that come out alike on every machine.

Quartiles are elements without interpolation. Sums go over small whole numbers, which fp32 adds exactly in
any order: kernels differ in theirs, and a choice of tokens or a rounded step must not show it.
"""

from typing import Final

import torch
from jaxtyping import Float32
from torch import Tensor

UNITS: Final = 8
"""A deviation is counted in eighths."""
LEAST_SPREAD: Final = 2.0**-24
"""The smallest number of fp16; below it nothing can be told apart."""


def measure_channels(
    values: Float32[Tensor, "views tokens width"],
) -> tuple[Float32[Tensor, "views width"], Float32[Tensor, "views width"]]:
    """Median and interquartile range of each channel; where that is nothing the whole range, or else 1."""
    num_tokens = values.shape[1]
    ordered = values.transpose(1, 2).contiguous().sort(dim=2).values
    median = ordered[..., num_tokens // 2]
    spread = ordered[..., 3 * num_tokens // 4] - ordered[..., num_tokens // 4]
    spread = torch.where(spread > LEAST_SPREAD, spread, ordered[..., -1] - ordered[..., 0])
    return median, torch.where(spread > LEAST_SPREAD, spread, 1.0)


def count_units(
    values: Float32[Tensor, "*shape"], most: float, out: Float32[Tensor, "*shape"]
) -> Float32[Tensor, "*shape"]:
    """Absolute values in whole eighths, at most `most`, written to `out`."""
    return torch.abs(values, out=out).clamp_(max=most).mul_(UNITS).round_()
