"""The query compressor of LLaVA-Mini: C*C learned queries and one cross-attention over a frame's patches.

It follows the published code where the paper (section 4.2, equation 2) differs: attention runs at the
encoder's width on raw features, with the input and output projections of a multi-head attention, and the
result goes through the projector afterwards. This is also what reproduces the paper's FLOPs. With five views
the four crops are laid out as one picture of twice the side, and the whole picture is left out: it reaches
the language model through pre-fusion. Attention weights are never asked for, so a fused kernel runs. C may be
anything from 1 to the side of the view.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from operators.frame_by_frame import apply_by_frame
from operators.positions import PositionMode, query_and_key_positions, side_of
from operators.view_grid import patches_to_compress
from schemas.errors import ConfigError


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
        return apply_by_frame(self._compress, views)

    def _compress(
        self, views: Float[Tensor, "frames views patches width"]
    ) -> Float[Tensor, "frames queries width"]:
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
