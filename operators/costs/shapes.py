"""The sizes that decide costs: of a Llama-like language model, and of a CLIP tower.

Weights of norms and biases are left out, as counters of FLOPs leave them out: below 0.01 % of a layer.
"""

from dataclasses import dataclass
from typing import Final

FLOPS_PER_MAC: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageShape:
    """A language model built like Llama."""

    name: str
    layers: int
    width: int
    inner_width: int
    """Of the gated feed-forward part."""
    heads: int
    key_value_heads: int
    vocabulary: int
    context: int
    """Positions that it was trained for."""

    @property
    def key_value_width(self) -> int:
        """Numbers in one key, and in one value."""
        return self.width // self.heads * self.key_value_heads

    @property
    def linears(self) -> tuple[tuple[str, int, int], ...]:
        """The matrices of a layer: name, inputs, outputs."""
        width, inner, narrow = self.width, self.inner_width, self.key_value_width
        return (
            ("query", width, width),
            ("key", width, narrow),
            ("value", width, narrow),
            ("output", width, width),
            ("gate", width, inner),
            ("up", width, inner),
            ("down", inner, width),
        )

    @property
    def layer_weights(self) -> int:
        """Weights of a layer's matrices."""
        return sum(inputs * outputs for _, inputs, outputs in self.linears)

    @property
    def head_weights(self) -> int:
        """Weights of the output head; of the table of embeddings as many."""
        return self.width * self.vocabulary

    @property
    def weights(self) -> int:
        """All weights, embeddings and head untied."""
        return self.layers * self.layer_weights + 2 * self.head_weights


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionShape:
    """A CLIP tower."""

    layers: int
    width: int
    inner_width: int
    patches: int
    patch_values: int
    """Numbers in one patch of a picture."""

    @property
    def tokens(self) -> int:
        """Rows of the tower: the patches and the class token."""
        return self.patches + 1

    @property
    def layer_weights(self) -> int:
        """Weights of a layer's matrices."""
        return 4 * self.width**2 + 2 * self.width * self.inner_width

    @property
    def weights(self) -> int:
        """All weights, the patch embedding among them."""
        return self.layers * self.layer_weights + self.patch_values * self.width


VICUNA_7B: Final = LanguageShape(
    name="vicuna-7b",
    layers=32,
    width=4096,
    inner_width=11008,
    heads=32,
    key_value_heads=32,
    vocabulary=32000,
    context=4096,
)
VICUNA_13B: Final = LanguageShape(
    name="vicuna-13b",
    layers=40,
    width=5120,
    inner_width=13824,
    heads=40,
    key_value_heads=40,
    vocabulary=32000,
    context=4096,
)
LLAMA_8B: Final = LanguageShape(
    name="llama-3.1-8b",
    layers=32,
    width=4096,
    inner_width=14336,
    heads=32,
    key_value_heads=8,
    vocabulary=128256,
    context=131072,
)
CLIP_L_336: Final = VisionShape(
    layers=24, width=1024, inner_width=4096, patches=576, patch_values=3 * 14 * 14
)
LANGUAGE_SHAPES: Final = {shape.name: shape for shape in (VICUNA_7B, VICUNA_13B, LLAMA_8B)}
