"""Places in a view: evenly spread, and as rows of weights. Pure integer arithmetic."""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from schemas.errors import ConfigError


def spread_places(count: int, length: int) -> Int64[Tensor, " count"]:
    """The middles of `count` equal parts of a row of `length`."""
    return (2 * torch.arange(count) + 1) * length // (2 * count)


def select_places(places: Int64[Tensor, " tokens"], num_patches: int) -> Float[Tensor, "tokens patches"]:
    """Weights that take one patch each."""
    weights = torch.zeros(places.shape[0], num_patches, device=places.device)
    return weights.scatter_(1, places[:, None], 1.0)


def factor_grid(num_tokens: int, side: int) -> tuple[int, int]:
    """Rows and columns, as square as can be, of a grid of so many cells in a view of `side` x `side` patches.

    Raises:
        ConfigError: there is none that fits.
    """
    rows = next(rows for rows in range(math.isqrt(num_tokens), 0, -1) if num_tokens % rows == 0)
    columns = num_tokens // rows
    if columns > side:
        raise ConfigError(
            f"{num_tokens} tokens make no grid within {side} x {side} patches; name a square, or a product "
            f"of two numbers up to {side}"
        )
    return rows, columns
