"""The projector from the encoder's width to the language model's: two linear layers with a GELU between.

The published `mlp2x_gelu` of LLaVA-1.5. It is a `Sequential`, so its parameters keep the published names `0`
and `2`.
"""

from torch import nn


class Projector(nn.Sequential):
    """Linear, GELU, linear; patch by patch."""

    def __init__(self, encoder_width: int, language_width: int) -> None:
        super().__init__(
            nn.Linear(encoder_width, language_width),
            nn.GELU(),
            nn.Linear(language_width, language_width),
        )
