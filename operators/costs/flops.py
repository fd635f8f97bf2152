"""FLOPs of an answer's prefill: encoder, projector, compressor, pre-fusion and language model.

Two columns. `linear` counts matrices alone, two operations a weight and token: it is what the published
tables of LLaVA-Mini count (calflops does not see attention's own products), and reproduces them. `attention`
adds those products, whole rows of them, as kernels without causal skipping compute them. Norms, softmax and
activations are left out of both: below 0.1 %.
"""

from dataclasses import dataclass
from typing import Final

from operators.costs.shapes import CLIP_L_336, FLOPS_PER_MAC, LanguageShape, VisionShape

_COMPRESSOR_PRODUCTS: Final = 4.0
"""Of the compressor's attention, by query, patch and channel: scores and mixing, a MAC each."""


@dataclass(frozen=True, slots=True)
class Flops:
    """A cost in its two columns."""

    linear: float
    attention: float = 0.0
    """What attention adds."""

    @property
    def total(self) -> float:
        """Both."""
        return self.linear + self.attention

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(self.linear + other.linear, self.attention + other.attention)

    def times(self, count: int) -> "Flops":
        """The cost of doing it so often."""
        return Flops(self.linear * count, self.attention * count)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillSetup:
    """What is read before an answer begins."""

    text_tokens: int
    vision_tokens: int
    """That the language model reads, all frames together."""
    views: int = 1
    """That are encoded for a frame."""
    frames: int = 1
    compressor_queries: int = 0
    """Of a frame. 0: the model has no compressor, and projects its vision tokens alone."""
    prefusion_layers: int = 0


def count_prefill(
    llm: LanguageShape, setup: PrefillSetup, tower: VisionShape = CLIP_L_336
) -> dict[str, Flops]:
    """The cost of each part, by name; parts that are not there cost nothing.

    With a compressor all patches are projected, as the published code does with pre-fusion and without.
    """
    patches, queries = setup.views * tower.patches, setup.compressor_queries
    projected = setup.frames * (patches + queries) if queries else setup.vision_tokens
    fused = patches + queries + setup.text_tokens
    return {
        "encoder": count_tower(tower).times(setup.views * setup.frames),
        "projector": count_projector(llm, tower, projected),
        "compressor": count_compressor(tower, patches, queries).times(setup.frames),
        "prefusion": _count_layers(llm, fused, setup.prefusion_layers).times(setup.frames),
        "language model": count_language_model(llm, setup.vision_tokens + setup.text_tokens),
    }


def add_up(parts: dict[str, Flops]) -> Flops:
    """The cost of all parts."""
    return sum(parts.values(), start=Flops(0.0))


def count_tower(tower: VisionShape) -> Flops:
    """One view through the tower."""
    embedding = FLOPS_PER_MAC * tower.patches * tower.patch_values * tower.width
    layers = FLOPS_PER_MAC * tower.layers * tower.tokens * tower.layer_weights
    return Flops(embedding + layers, _count_attention(tower.layers, tower.tokens, tower.width))


def count_projector(llm: LanguageShape, tower: VisionShape, tokens: int) -> Flops:
    """Two matrices: to the language model's width, and once more."""
    return Flops(FLOPS_PER_MAC * tokens * (tower.width + llm.width) * llm.width)


def count_compressor(tower: VisionShape, patches: int, queries: int) -> Flops:
    """One cross-attention of the queries on the patches of a frame.

    Its products stand in the linear column: the published cost of compression has them.
    """
    if not queries:
        return Flops(0.0)
    matrices = FLOPS_PER_MAC * (2 * patches + 2 * queries) * tower.width**2
    return Flops(matrices + _COMPRESSOR_PRODUCTS * queries * patches * tower.width)


def count_language_model(llm: LanguageShape, tokens: int) -> Flops:
    """All layers and, for every token, the head."""
    return _count_layers(llm, tokens, llm.layers) + Flops(FLOPS_PER_MAC * tokens * llm.head_weights)


def _count_layers(llm: LanguageShape, tokens: int, layers: int) -> Flops:
    matrices = FLOPS_PER_MAC * layers * tokens * llm.layer_weights
    return Flops(matrices, _count_attention(layers, tokens, llm.width))


def _count_attention(layers: int, tokens: int, width: int) -> float:
    """Scores and mixing of all pairs of tokens."""
    return 2 * FLOPS_PER_MAC * layers * tokens**2 * width
