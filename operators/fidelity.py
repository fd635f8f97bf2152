"""How far decoded features are from the ones that were encoded.

Four questions, because each of the first two hides what the others show. Raw cosine and relative error are
ruled by a few massive channels: a codec that ruins all the rest keeps them. Cosine after channel
normalization sees every channel alike, and so tokens; the error of a channel by its own deviation finds the
one channel that collapsed. The last is taken over ordinary tokens: outliers, a few percent of very large
norm, would widen a channel's deviation until no error shows.
"""

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn.functional import cosine_similarity

from schemas.fidelity import Fidelity

ORDINARY_SHARE = 0.96
"""Of the tokens, by their norm after normalization."""

_LARGEST = 65504.0
_TINY = torch.finfo(torch.float64).tiny


def measure_fidelity(
    wanted: Float[Tensor, "views patches width"], found: Float[Tensor, "views patches width"]
) -> Fidelity:
    """Compare features; mean and deviation of channels are those of `wanted`. Constant channels count raw,
    and what is no number in `found` as a very large one.
    """
    before, after = wanted.double().flatten(0, 1), found.double().flatten(0, 1).nan_to_num(nan=_LARGEST)
    mean, deviation = before.mean(dim=0), before.std(dim=0, correction=0)
    deviation = torch.where(deviation > 0, deviation, 1.0)
    normalized = (before - mean) / deviation
    error = after - before
    raw_cosine = _compare(before, after)
    normalized_cosine = _compare(normalized, (after - mean) / deviation)
    relative_error = _lengths(error) / _lengths(before).clamp(min=_TINY)
    return Fidelity(
        worst_raw_cosine=float(raw_cosine.min()),
        mean_raw_cosine=float(raw_cosine.mean()),
        worst_normalized_cosine=float(normalized_cosine.min()),
        mean_normalized_cosine=float(normalized_cosine.mean()),
        channel_nrmse=_worst_channel_error(before, error, _lengths(normalized)),
        worst_relative_error=float(relative_error.max()),
        mean_relative_error=float(relative_error.mean()),
    )


def _lengths(rows: Float64[Tensor, "tokens width"]) -> Float64[Tensor, " tokens"]:
    return rows.square().sum(dim=1).sqrt()


def _compare(
    one: Float64[Tensor, "tokens width"], other: Float64[Tensor, "tokens width"]
) -> Float64[Tensor, " tokens"]:
    """Cosine of each token; that of two zero tokens is 1."""
    both_zero = (one == 0).all(dim=1) & (other == 0).all(dim=1)
    return torch.where(both_zero, 1.0, cosine_similarity(one, other, dim=1))


def _worst_channel_error(
    before: Float64[Tensor, "tokens width"],
    error: Float64[Tensor, "tokens width"],
    norms: Float64[Tensor, " tokens"],
) -> float:
    num_ordinary = max(1, int(ORDINARY_SHARE * len(norms)))
    ordinary = norms.argsort(stable=True)[:num_ordinary]
    deviation = before[ordinary].std(dim=0, correction=0)
    deviation = torch.where(deviation > 0, deviation, 1.0)
    return float((error[ordinary].square().mean(dim=0).sqrt() / deviation).max())
