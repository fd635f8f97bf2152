"""A Q-Former: learned queries that talk to each other in every layer and to the picture in every other.

Li et al. 2023, "BLIP-2", section 3.1: 32 queries, 12 layers of BERT's kind, cross-attention inserted in every
second block. Differences: norms stand before each part and not behind it, since it starts from random
weights here and not from BERT's; its width is the encoder's; there is no text branch, which only BLIP-2's own
pre-training uses. All views of a frame are read at once; patches carry their places from the encoder.
"""

from typing import cast

from jaxtyping import Float
from torch import Tensor, nn

from operators.frame_by_frame import apply_by_frame
from operators.reducers.attend import Attention, build_attention, draw_queries
from operators.view_grid import order_patches


class QFormerLayer(nn.Module):
    """Self-attention, cross-attention where the layer has it, and a feed-forward layer."""

    def __init__(self, width: int, num_heads: int, *, reads_patches: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.own = build_attention(width, num_heads)
        self.cross = Attention(width, num_heads) if reads_patches else None
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(
        self, queries: Float[Tensor, "frames queries width"], patches: Float[Tensor, "frames patches width"]
    ) -> Float[Tensor, "frames queries width"]:
        """The queries after this layer."""
        normed = self.norm(queries)
        queries = queries + self.own(normed, normed, normed, need_weights=False)[0]
        if self.cross is not None:
            queries = queries + self.cross(queries, patches)
        return queries + self.feed_forward(queries)


class QFormer(nn.Module):
    """A fixed number of tokens for each frame."""

    def __init__(self, width: int, num_queries: int, num_layers: int, num_heads: int) -> None:
        """Draw fresh weights.

        Raises:
            ConfigError: the width does not divide into heads.
        """
        super().__init__()
        self.queries = draw_queries(num_queries, width)
        self.layers = nn.ModuleList(
            QFormerLayer(width, num_heads, reads_patches=layer % 2 == 0) for layer in range(num_layers)
        )
        self.norm = nn.LayerNorm(width)

    def forward(
        self, views: Float[Tensor, "frames views patches width"]
    ) -> Float[Tensor, "frames queries width"]:
        """The queries' answers, at the encoder's width."""
        return apply_by_frame(self._read, views)

    def _read(
        self, views: Float[Tensor, "frames views patches width"]
    ) -> Float[Tensor, "frames queries width"]:
        patches = order_patches(views)
        queries = self.queries.expand(views.shape[0], -1, -1)
        for layer in self.layers:
            queries = cast("Tensor", layer(queries, patches))
        return self.norm(queries)
