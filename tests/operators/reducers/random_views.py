"""Views of random numbers whose class attention has outliers, as a trained encoder's has."""

import torch

from operators.class_attention import AttentionWeights
from operators.reducers import Focus, ViewFeatures

HEADS = 2


def random_view(seed: int, *, num_patches: int = 36, width: int = 8) -> ViewFeatures:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    attention = torch.softmax(draw(num_patches) * 2, dim=0) * 0.9
    joined = torch.softmax(draw(num_patches) * 2, dim=0) * 0.8
    focus = Focus(
        attention=attention, joined_attention=joined, keys=draw(num_patches, width), num_heads=HEADS
    )
    return ViewFeatures(draw(num_patches, width), focus)


def random_weights(width: int, seed: int = 0) -> AttentionWeights:
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        f"{part}.{kind}": torch.randn(*((width, width) if shape else (width,)), generator=generator) * 0.6
        for part in ("query", "key")
        for kind, shape in (("weight", True), ("bias", False))
    }
    tensors |= {"norm.weight": torch.ones(width), "norm.bias": torch.zeros(width)}
    return AttentionWeights(tensors=tensors, num_heads=HEADS, norm_epsilon=1e-5)
