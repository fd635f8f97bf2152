"""PruMerge and PruMerge+: keep the patches that the class token looks at, and merge their like into them.

Shang et al. 2024, "LLaVA-PruMerge: Adaptive Token Reduction for Efficient Large Multimodal Models":
- section 3.2, equation 3: attention of the class token in the last layer; a patch is kept when its attention
  is an outlier by Tukey's rule, above Q3 + 1.5 (Q3 - Q1). Q3 has a quarter of the patches above it at most.
- section 3.3, equations 4 and 5, algorithm 1: each kept patch is merged with the k patches whose keys are
  most like its own, weighted by attention.
- PruMerge+: samples spread over the picture join the kept patches, up to a quarter of all.

Text, pseudo-code and released code differ; the README beside says where. `PruMerge` follows the text,
`ReleasedPruMerge` the code. Both work on the heads' keys side by side, by cosine.

Cost at 576 patches of width 1024, one core: 1 to 2 ms a view for the choice and the merging; recomputing
attention and keys from cached rows comes before that and costs more (`operators.class_attention`).
"""

from dataclasses import dataclass
from typing import Any, Final, cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from operators.reducers.interface import TokenBounds, ViewFeatures
from operators.reducers.places import select_places, spread_places

FENCE: Final = 1.5
"""Interquartile ranges above the third quartile where outliers begin."""
_SMALLEST: Final = torch.finfo(torch.float32).tiny
"""Attention that rounds to zero still has a share, so that no row of weights is empty; keys have a length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PruMerge:
    """By the text of the paper; tokens stand in the order of their patches."""

    neighbors: int = 32
    merges: bool = True
    share: float | None = None
    """PruMerge+: of the patches that are kept, samples included. None: outliers alone."""
    needs_focus: bool = True

    def bound_tokens(self, num_patches: int) -> TokenBounds:
        """One token at least; a quarter of the patches, or the share that is asked for, at most."""
        most = max(1, (num_patches + 2) // 4)
        if self.share is None:
            return TokenBounds(1, most)
        wanted = max(1, round(self.share * num_patches))
        return TokenBounds(wanted, max(wanted, most))

    def weigh(self, view: ViewFeatures) -> Float[Tensor, "tokens patches"]:
        """Shares of attention in each kept patch and its neighbors, or 1 for the patch where none merge."""
        focus = view.required_focus
        chosen = find_outliers(focus.attention)
        if self.share is not None:
            chosen = add_samples(chosen, focus.attention.shape[0], self.share)
        if not self.merges:
            return select_places(chosen, focus.attention.shape[0])
        like = find_neighbors(focus.keys, chosen, self.neighbors)
        members = torch.cat([chosen[:, None], like], dim=1)
        shares = focus.attention.float().clamp(min=_SMALLEST)[members]
        weights = shares.new_zeros(chosen.shape[0], focus.attention.shape[0])
        return weights.scatter_(1, members, shares / shares.sum(dim=1, keepdim=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasedPruMerge:
    """As the released code computes it: one softmax over all heads, sums that are not normalized, and a last
    token of all that was pruned. Tokens stand by falling attention, samples of PruMerge+ after them.
    """

    neighbors: int = 32
    merges: bool = True
    samples: bool = False
    """PruMerge+."""
    needs_focus: bool = True

    def bound_tokens(self, num_patches: int) -> TokenBounds:
        """The token of the rest at least; a quarter of the patches, or with samples all, and it at most."""
        most = num_patches if self.samples else (num_patches + 2) // 4
        return TokenBounds(int(self.merges), most + int(self.merges))

    def weigh(self, view: ViewFeatures) -> Float[Tensor, "tokens patches"]:
        """1 for each kept patch plus the attention of its neighbors; a last row for the rest."""
        focus = view.required_focus
        attention = focus.joined_attention.float()
        chosen = self._choose(attention)
        weights = select_places(chosen, attention.shape[0])
        if not self.merges:
            return weights
        like = find_neighbors(focus.keys, chosen, self.neighbors)
        weights.scatter_(1, like, attention[like])
        rest = attention.clone()
        rest[chosen] = 0.0
        return torch.cat([weights, rest[None]])

    def _choose(self, attention: Float[Tensor, " patches"]) -> Int64[Tensor, " tokens"]:
        """As many as there are outliers; the count passes through a ratio, which may round one away."""
        num_patches = attention.shape[0]
        ratio = int((attention.double() > _fence(attention)).sum()) / num_patches
        chosen = attention.topk(int(num_patches * ratio)).indices
        if not self.samples or not ratio:
            return chosen
        step = max(1, int(int(1 / ratio) / 3))
        samples = torch.arange(0, num_patches - 1, step, device=chosen.device)
        return torch.cat([chosen, samples[~torch.isin(samples, chosen)]])


def find_outliers(attention: Float[Tensor, " patches"]) -> Int64[Tensor, " tokens"]:
    """Places of outliers, rising; the place of the most attention where there are none (section 3.2)."""
    places = (attention.double() > _fence(attention)).nonzero().flatten()
    return places if places.shape[0] else attention.argmax()[None]


def add_samples(chosen: Int64[Tensor, " kept"], num_patches: int, share: float) -> Int64[Tensor, " tokens"]:
    """The chosen places and, of those left, evenly spaced ones up to the share of all; rising."""
    missing = max(1, round(share * num_patches)) - chosen.shape[0]
    if missing <= 0:
        return chosen
    is_left = torch.ones(num_patches, dtype=torch.bool, device=chosen.device)
    is_left[chosen] = False
    left = is_left.nonzero().flatten()
    samples = left[spread_places(missing, left.shape[0]).to(left.device)]
    return torch.cat([chosen, samples]).sort().values


def find_neighbors(
    keys: Float[Tensor, "patches width"], chosen: Int64[Tensor, " tokens"], count: int
) -> Int64[Tensor, "tokens neighbors"]:
    """The `count` patches whose keys have the highest cosine with a chosen one's, itself left out.

    The length of the chosen key changes no order and is left out, too.
    """
    keys = keys.float()
    likeness = keys[chosen] @ keys.T
    lengths: Tensor = cast(Any, torch.linalg).vector_norm(keys, dim=1)
    likeness /= lengths.clamp(min=_SMALLEST)
    likeness.scatter_(1, chosen[:, None], -torch.inf)
    return likeness.topk(min(count, keys.shape[0] - 1), dim=1).indices


def _fence(attention: Float[Tensor, " patches"]) -> Float[Tensor, ""]:
    """Where outliers begin, in double precision; quartiles are interpolated, as `torch.quantile` does."""
    ranked = attention.double().sort().values
    lower, upper = (_interpolate(ranked, share * (ranked.shape[0] - 1)) for share in (0.25, 0.75))
    return upper + FENCE * (upper - lower)


def _interpolate(ranked: Float[Tensor, " patches"], place: float) -> Float[Tensor, ""]:
    below = int(place)
    return torch.lerp(ranked[below], ranked[min(below + 1, ranked.shape[0] - 1)], place - below)
