"""Fixed 2D sine-cosine positions for the compressor's queries and keys.

The table is the one of MAE and LLaVA-Mini: the first half of the width encodes the column, the second the
row, each half as sines then cosines. Two ways to give keys a position:

- `published`: the queries' C x C table, resized to the key grid (bicubic). With C = 1 every key gets the same
  vector, so the compressor cannot tell places apart by position. Kept as the default: it is what the released
  weights saw.
- `native`: keys get the table of their own grid, queries the place of their cell's centre in that grid.

Nothing is stored: the tables are separable, so making them costs two small outer products per call.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from schemas.errors import ConfigError, MismatchError

PositionMode = Literal["published", "native"]
"""How keys get their position."""


def side_of(patches: int) -> int:
    """The side of a square grid of patches.

    Raises:
        MismatchError: the patches do not fill a square.
    """
    side = math.isqrt(patches)
    if side * side != patches:
        raise MismatchError(f"{patches} patches do not fill a square grid; give features of square views")
    return side


def encode_places(places: Float[Tensor, " places"], width: int) -> Float[Tensor, "places width"]:
    """Sines, then cosines, of each place at `width / 2` frequencies from 1 down to 1/10000.

    Raises:
        ConfigError: the width is odd.
    """
    if width % 2:
        raise ConfigError(f"positions need an even width, not {width}")
    exponents = torch.arange(width // 2, dtype=torch.float64, device=places.device) / (width / 2)
    angles = torch.outer(places.double(), 10000.0**-exponents)
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


def position_table(places: Float[Tensor, " side"], width: int) -> Float[Tensor, "side*side width"]:
    """The table of a square grid, row by row, whose rows and columns stand at `places`."""
    side = places.shape[0]
    axis = encode_places(places, width // 2)
    columns = axis[None, :, :].expand(side, side, -1)
    rows = axis[:, None, :].expand(side, side, -1)
    return torch.cat([columns, rows], dim=2).reshape(side * side, width)


def resize_table(table: Float[Tensor, "places width"], side: int) -> Float[Tensor, "patches width"]:
    """A square table resized to `side` x `side` places (bicubic, corners not aligned)."""
    if table.shape[0] == side * side:
        return table
    source = side_of(table.shape[0])
    grid = table.reshape(1, source, source, -1).permute(0, 3, 1, 2)
    resized = functional.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    return resized.permute(0, 2, 3, 1).reshape(side * side, -1)


def query_and_key_positions(
    mode: PositionMode, grid: int, side: int, width: int, device: torch.device
) -> tuple[Float[Tensor, "queries width"], Float[Tensor, "patches width"]]:
    """Positions of `grid` x `grid` queries and of the `side` x `side` keys they look at."""
    places = torch.arange(grid, dtype=torch.float32, device=device)
    if mode == "published":
        queries = position_table(places, width)
        return queries, resize_table(queries, side)
    keys = position_table(torch.arange(side, dtype=torch.float32, device=device), width)
    centres = (places + 0.5) * (side / grid) - 0.5
    return position_table(centres, width), keys
