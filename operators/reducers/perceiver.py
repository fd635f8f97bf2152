"""A Perceiver resampler: learned latents that read the patches, and themselves, layer after layer.

Alayrac et al. 2022, "Flamingo", section 3.1.1 and appendix A.1.1: 64 latents, 6 layers; keys and values are
the patches and the latents side by side; squared ReLU between the feed-forward layers. Differences: each
frame is read by itself, as all reducers do here, so the embeddings of time are left out.
"""

from typing import cast

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from operators.frame_by_frame import apply_by_frame
from operators.reducers.attend import Attention, draw_queries
from operators.view_grid import order_patches


class SquaredReLU(nn.Module):
    """ReLU, squared."""

    def forward(self, values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The square where a value is positive, else 0."""
        return functional.relu(values).square()


class PerceiverLayer(nn.Module):
    """Attention to patches and latents, and a feed-forward layer."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.cross = Attention(width, num_heads)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width, bias=False),
            SquaredReLU(),
            nn.Linear(4 * width, width, bias=False),
        )

    def forward(
        self, latents: Float[Tensor, "frames queries width"], patches: Float[Tensor, "frames patches width"]
    ) -> Float[Tensor, "frames queries width"]:
        """The latents after this layer."""
        latents = latents + self.cross.attend_to_both(latents, patches)
        return latents + self.feed_forward(latents)


class PerceiverResampler(nn.Module):
    """A fixed number of tokens for each frame."""

    def __init__(self, width: int, num_latents: int, num_layers: int, num_heads: int) -> None:
        """Draw fresh weights.

        Raises:
            ConfigError: the width does not divide into heads.
        """
        super().__init__()
        self.latents = draw_queries(num_latents, width)
        self.layers = nn.ModuleList(PerceiverLayer(width, num_heads) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)

    def forward(
        self, views: Float[Tensor, "frames views patches width"]
    ) -> Float[Tensor, "frames queries width"]:
        """The latents after all layers, at the encoder's width."""
        return apply_by_frame(self._read, views)

    def _read(
        self, views: Float[Tensor, "frames views patches width"]
    ) -> Float[Tensor, "frames queries width"]:
        patches = order_patches(views)
        latents = self.latents.expand(views.shape[0], -1, -1)
        for layer in self.layers:
            latents = cast("Tensor", layer(latents, patches))
        return self.norm(latents)
