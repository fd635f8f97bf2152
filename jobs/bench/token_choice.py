"""How far a codec changes which tokens the class token's attention chooses.

The choice is PruMerge's (`operators.reducers.prumerge`), without merging. The weights here are random, scaled
so that scores differ by about 2 before the softmax.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from operators.class_attention import AttentionWeights
from operators.reducers.focus import focus_view
from operators.reducers.prumerge import find_outliers

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
    chosen = torch.zeros(views.shape[:2], dtype=torch.bool)
    for view, class_row, row in zip(views, class_rows, chosen, strict=True):
        row[find_outliers(focus_view(class_row, view, weights).attention)] = True
    return chosen


def share_kept(wanted: Bool[Tensor, "views patches"], found: Bool[Tensor, "views patches"]) -> float:
    """Of the tokens chosen by either, the share chosen by both."""
    either = int((wanted | found).sum())
    return int((wanted & found).sum()) / either if either else 1.0
