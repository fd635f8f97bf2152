"""Stand-ins for CLIP features, drawn with the traits that break codecs.

A view is a smooth part over the patch grid of few dimensions, noise, a few massive channels that are nearly
constant, and outlier tokens that a few register channels drive. The magnitudes are a choice (the literature
gives kinds, not sizes): `severe` is beyond what it reports, `clip_rand` is what a tower of random weights
gives, without any of it. No figure made with these replaces an audit of features of real weights.
"""

from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

NUM_PATCHES: Final = 576
WIDTH: Final = 1024
_COARSE: Final = 6
"""The smooth part is drawn on a grid of so many a side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """What a set of views is like, in deviations of an ordinary channel."""

    rank: int
    """Dimensions of the smooth part."""
    noise: float
    """Share of what no smooth part explains."""
    massive: float
    """Of four channels; half a dozen more have a fifth of it."""
    outlier: float
    """Of the registers in outlier tokens; 0: there are none."""
    norm_spread: float = 0.1
    """Log-normal, of the norms of tokens."""
    mean: float = 0.3
    """Of ordinary channels."""
    channel_spread: float = 0.4
    """Log-normal, of the deviations of channels."""


STATISTICS: Final = {
    "clip_rand": Statistics(
        rank=24, noise=0.2, massive=1.0, outlier=0.0, norm_spread=0.05, mean=0.7, channel_spread=0.1
    ),
    "hybrid": Statistics(rank=96, noise=0.4, massive=36.0, outlier=45.0),
    "nominal": Statistics(rank=256, noise=0.8, massive=23.0, outlier=65.0),
    "severe": Statistics(rank=512, noise=0.8, massive=130.0, outlier=290.0),
}
"""Like the sets that the codecs' promises were chosen on."""


def draw_views(
    statistics: Statistics,
    num_views: int,
    seed: int = 0,
    num_patches: int = NUM_PATCHES,
    width: int = WIDTH,
) -> Float[Tensor, "views patches width"]:
    """Views of these statistics; the same seed gives the same channels and views, whatever their number."""
    random = torch.Generator().manual_seed(seed)
    deviation = torch.empty(width).log_normal_(0.0, statistics.channel_spread, generator=random)
    mean = torch.randn(width, generator=random) * statistics.mean
    basis = torch.randn(statistics.rank, width, generator=random) / statistics.rank**0.5
    channels = torch.randperm(width, generator=random)
    views = [_draw_view(statistics, random, num_patches, basis) * deviation + mean for _ in range(num_views)]
    for view in views:
        _plant(view, statistics, channels, random)
    return torch.stack(views)


def _draw_view(
    statistics: Statistics, random: torch.Generator, num_patches: int, basis: Float[Tensor, "rank width"]
) -> Float[Tensor, "patches width"]:
    side = round(num_patches**0.5)
    coarse = torch.randn(1, statistics.rank, _COARSE, _COARSE, generator=random)
    smooth = interpolate(coarse, size=(side, -(-num_patches // side)), mode="bilinear").flatten(2)[0].t()
    noise = torch.randn(num_patches, basis.shape[1], generator=random)
    view = (1 - statistics.noise**2) ** 0.5 * (smooth[:num_patches] @ basis) + statistics.noise * noise
    return view * torch.exp(statistics.norm_spread * torch.randn(num_patches, 1, generator=random))


def _plant(
    view: Float[Tensor, "patches width"],
    statistics: Statistics,
    channels: Tensor,
    random: torch.Generator,
) -> None:
    num_patches = len(view)
    for massive, size in ((channels[:4], 1.0), (channels[4:10], 0.2)):
        wobble = 1 + 0.1 * torch.randn(num_patches, len(massive), generator=random)
        view[:, massive] += size * statistics.massive * wobble
    if statistics.outlier:
        tokens = torch.randperm(num_patches, generator=random)[: num_patches // 50]
        registers = channels[10:18]
        driven = statistics.outlier * (0.5 + torch.rand(len(tokens), len(registers), generator=random))
        view[tokens[:, None], registers] += driven
