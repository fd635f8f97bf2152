"""How far a codec changes which tokens the class token's attention chooses.

Patch choosers of PruMerge's kind (Shang et al. 2024, section 3) keep the patches whose class attention,
averaged over heads, is an outlier: above the third quartile by 1.5 interquartile ranges. The weights here are
random, scaled so that scores differ by about 2 before the softmax.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from operators.class_attention import AttentionWeights, attend_from_class

NUM_HEADS = 16
_QUERY_SCALE = 2.0
"""Deviation of the scores before the softmax."""


def make_weights(width: int, seed: int = 0) -> AttentionWeights:
    """Norm, query and key of a made-up layer."""
    random = torch.Generator().manual_seed(seed)
    scale = (_QUERY_SCALE / width) ** 0.5
    tensors = {
        "norm.weight": torch.ones(width),
        "norm.bias": torch.zeros(width),
        "query.weight": torch.randn(width, width, generator=random) * scale,
        "query.bias": torch.zeros(width),
        "key.weight": torch.randn(width, width, generator=random) * scale,
        "key.bias": torch.zeros(width),
    }
    return AttentionWeights(tensors=tensors, num_heads=NUM_HEADS, norm_epsilon=1e-5)


def stand_in_class_rows(views: Float[Tensor, "views patches width"]) -> Float[Tensor, "views width"]:
    """The mean of a view's patches: a row that has gathered from all, as a class row has."""
    return views.mean(dim=1)


def choose_tokens(
    views: Float[Tensor, "views patches width"],
    class_rows: Float[Tensor, "views width"],
    weights: AttentionWeights,
) -> Bool[Tensor, "views patches"]:
    """The tokens that stand out in the class token's attention."""
    rows = torch.cat([class_rows[:, None].float(), views.float()], dim=1)
    attention = attend_from_class(rows, weights).attention.mean(dim=1)
    quartiles = attention.quantile(torch.tensor([0.25, 0.75]), dim=1)
    return attention > (quartiles[1] + 1.5 * (quartiles[1] - quartiles[0]))[:, None]


def share_kept(wanted: Bool[Tensor, "views patches"], found: Bool[Tensor, "views patches"]) -> float:
    """Of the tokens chosen by either, the share chosen by both."""
    either = int((wanted | found).sum())
    return int((wanted & found).sum()) / either if either else 1.0
