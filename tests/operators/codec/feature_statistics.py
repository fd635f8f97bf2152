"""Stand-ins for CLIP features, and the four numbers that say how faithful a codec is.

Planted: a smooth part over the patch grid, a few massive channels that are nearly constant, 2 % outlier
tokens that a few register channels drive. `severe` is beyond what the literature reports.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Statistics:
    massive: float
    outlier: float
    tail: float


STATISTICS = {
    "nominal": Statistics(massive=30.0, outlier=12.0, tail=0.0),
    "severe": Statistics(massive=180.0, outlier=60.0, tail=0.0),
    "mild": Statistics(massive=3.0, outlier=0.0, tail=0.0),
    "heavy": Statistics(massive=50.0, outlier=30.0, tail=0.15),
}


def draw_views(name: str, num_views: int, num_patches: int = 576, width: int = 1024) -> Tensor:
    """Views of these statistics, always the same ones."""
    statistics = STATISTICS[name]
    random = torch.Generator().manual_seed(sorted(STATISTICS).index(name))
    deviation = torch.empty(width).log_normal_(0.0, 0.4, generator=random)
    mean = torch.randn(width, generator=random) * 0.3
    shared = torch.randn(num_views, num_patches, 64, generator=random) @ torch.randn(
        64, width, generator=random
    )
    noise = torch.randn(num_views, num_patches, width, generator=random)
    views = mean + deviation * (0.6 * shared / 8 + 0.8 * noise) * torch.exp(
        statistics.tail * torch.randn(num_views, num_patches, 1, generator=random)
    )
    massive = torch.randperm(width, generator=random)[:4]
    views[..., massive] += statistics.massive * (
        1 + 0.1 * torch.randn(num_views, num_patches, 4, generator=random)
    )
    registers = torch.randperm(width, generator=random)[:8]
    for view in views:
        tokens = torch.randperm(num_patches, generator=random)[: num_patches // 50]
        view[tokens[:, None], registers] += statistics.outlier * torch.rand(len(tokens), 8, generator=random)
    return views


@dataclass(frozen=True)
class Fidelity:
    raw_cosine: float
    normalized_cosine: float
    channel_nrmse: float


def measure_fidelity(
    before: Float[Tensor, "views patches width"], after: Float[Tensor, "views patches width"]
) -> Fidelity:
    """The worst token by raw and by channel-normalised cosine, and the worst channel over ordinary tokens."""
    before, after = before.double().flatten(0, 1), after.double().flatten(0, 1)
    mean, deviation = before.mean(0), before.std(0)
    norm = ((before - mean) / deviation).norm(dim=1)
    ordinary = norm < norm.quantile(0.96)
    error = (after - before)[ordinary].square().mean(0).sqrt() / before[ordinary].std(0)
    cosine = torch.nn.functional.cosine_similarity
    return Fidelity(
        raw_cosine=float(cosine(before, after, dim=1).min()),
        normalized_cosine=float(cosine((before - mean) / deviation, (after - mean) / deviation, dim=1).min()),
        channel_nrmse=float(error.max()),
    )
