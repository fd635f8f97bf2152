"""What Q-Former and Perceiver resampler share: normed attention, and how queries are drawn."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from schemas.errors import ConfigError


class Attention(nn.Module):
    """Multi-head attention of queries on a context, both normed; the caller adds what it gives."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm_queries = nn.LayerNorm(width)
        self.norm_context = nn.LayerNorm(width)
        self.attention = build_attention(width, num_heads)

    def forward(
        self, queries: Float[Tensor, "frames queries width"], context: Float[Tensor, "frames context width"]
    ) -> Float[Tensor, "frames queries width"]:
        """What the queries find in the context."""
        values = self.norm_context(context)
        found, _ = self.attention(self.norm_queries(queries), values, values, need_weights=False)
        return found

    def attend_to_both(
        self, queries: Float[Tensor, "frames queries width"], context: Float[Tensor, "frames context width"]
    ) -> Float[Tensor, "frames queries width"]:
        """What the queries find in the context and in themselves."""
        normed = self.norm_queries(queries)
        values = torch.cat([self.norm_context(context), normed], dim=1)
        found, _ = self.attention(normed, values, values, need_weights=False)
        return found


def build_attention(width: int, num_heads: int) -> nn.MultiheadAttention:
    """Multi-head attention with fresh weights.

    Raises:
        ConfigError: the width does not divide into heads.
    """
    if width % num_heads:
        raise ConfigError(f"width {width} does not divide into {num_heads} heads")
    return nn.MultiheadAttention(width, num_heads, batch_first=True)


def draw_queries(num_queries: int, width: int) -> nn.Parameter:
    """Learned queries, small at first."""
    queries = nn.Parameter(torch.empty(num_queries, width))
    nn.init.trunc_normal_(queries, std=0.02)
    return queries
