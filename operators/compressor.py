"""The query compressor of LLaVA-Mini: C*C learned queries and one cross-attention over a frame's patches.

It follows the published code where the paper (section 4.2, equation 2) differs: attention runs at the
encoder's width on raw features, with the input and output projections of a multi-head attention, and the
result goes through the projector afterwards. This is also what reproduces the paper's FLOPs. With five views
the four crops are laid out as one picture of twice the side, and the whole picture is left out: it reaches
the language model through pre-fusion. Attention weights are never asked for, so a fused kernel runs.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from operators.positions import PositionMode, query_and_key_positions, side_of
from schemas.errors import ConfigError, MismatchError

NUM_VIEWS_HD = 5
"""Four crops, row by row, then the whole picture."""


def join_crops(crops: Float[Tensor, "frames 4 patches width"]) -> Float[Tensor, "frames joined width"]:
    """Four crops, given row by row, as one grid of twice the side, its patches row by row."""
    frames, _, patches, width = crops.shape
    side = side_of(patches)
    grid = crops.reshape(frames, 2, 2, side, side, width)
    return grid.permute(0, 1, 3, 2, 4, 5).reshape(frames, 4 * patches, width)


def order_patches(
    views: Float[Tensor, "frames views patches width"],
) -> Float[Tensor, "frames all_patches width"]:
    """All patches of a frame as pre-fusion reads them: the joined crops, then the whole picture.

    Raises:
        MismatchError: a frame has neither 1 nor 5 views.
    """
    if views.shape[1] == 1:
        return views[:, 0]
    _require_hd(views.shape[1])
    return torch.cat([join_crops(views[:, :4]), views[:, 4]], dim=1)


def patches_to_compress(
    views: Float[Tensor, "frames views patches width"],
) -> Float[Tensor, "frames grid_patches width"]:
    """The patches that the queries look at: those of the only view, or of the joined crops.

    Raises:
        MismatchError: a frame has neither 1 nor 5 views.
    """
    if views.shape[1] == 1:
        return views[:, 0]
    _require_hd(views.shape[1])
    return join_crops(views[:, :4])


def _require_hd(num_views: int) -> None:
    if num_views != NUM_VIEWS_HD:
        raise MismatchError(f"a frame has {num_views} views; give 1, or 4 crops and the whole picture")


class Compressor(nn.Module):
    """C*C tokens for each frame; its parameters keep their published names."""

    def __init__(self, width: int, grid: int, num_heads: int, positions: PositionMode = "published") -> None:
        """Draw fresh weights.

        Raises:
            ConfigError: the grid is empty, or the width does not divide into heads and axes.
        """
        super().__init__()
        if grid < 1:
            raise ConfigError(f"the compressor's grid is {grid}; it must be at least 1")
        if width % num_heads or width % 4:
            raise ConfigError(f"the compressor's width {width} must divide by 4 and by its {num_heads} heads")
        self.width = width
        self.grid = grid
        self.positions: PositionMode = positions
        self.query = nn.Parameter(torch.empty(grid * grid, width))
        self.attn = nn.MultiheadAttention(width, num_heads, batch_first=True)
        self.ln_q = nn.LayerNorm(width)
        self.ln_kv = nn.LayerNorm(width)
        nn.init.trunc_normal_(self.query, std=0.02)

    def forward(
        self, views: Float[Tensor, "frames views patches width"]
    ) -> Float[Tensor, "frames queries width"]:
        """Compressed tokens at the encoder's width."""
        values = self.ln_kv(patches_to_compress(views))
        query_places, key_places = query_and_key_positions(
            self.positions, self.grid, side_of(values.shape[1]), self.width, values.device
        )
        queries = self.ln_q(self.query) + query_places.to(values.dtype)
        attended, _ = self.attn(
            queries.expand(values.shape[0], -1, -1),
            values + key_places.to(values.dtype),
            values,
            need_weights=False,
        )
        return attended
