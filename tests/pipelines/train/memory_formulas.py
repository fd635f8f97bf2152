"""What training holds, by arithmetic: sums of sizes, nothing is run."""

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Of a stage 2 model with 4 pre-fusion layers and one token a frame."""

    parameters: int
    trainable: int
    head: int
    vocabulary: int
    layer_bytes_per_token: float
    """Saved by one decoder layer that is not recomputed."""
    layers: int = 32
    hidden_bytes: int = 8192


VICUNA_7B = Sizes(
    parameters=7_573_132_288,
    trainable=7_573_132_288 - 131_072_000,
    head=131_072_000,
    vocabulary=32_000,
    layer_bytes_per_token=187.7e3,
)
LLAMA_8B = Sizes(
    parameters=8_927_892_480,
    trainable=8_927_892_480 - 525_336_576,
    head=525_336_576,
    vocabulary=128_256,
    layer_bytes_per_token=214.4e3,
)


def static_gib(sizes: Sizes, state_bytes: float, *, in_backward: bool) -> float:
    """Weights and gradients in bfloat16, and the optimizer's state; of gradients the two largest, or all."""
    gradients = 2 * 2 * sizes.head if in_backward else 2 * sizes.trainable
    return (2 * sizes.parameters + gradients + state_bytes * sizes.trainable) / GIB


def activation_gib(sizes: Sizes, batch: int, tokens: int, labels: int) -> float:
    """Of recomputed layers their input, of one layer everything; logits of the learned rows."""
    fused, read = 576 + 1 + tokens, 1 + tokens
    kept = sizes.hidden_bytes * (4 * fused + sizes.layers * read)
    recomputed = max(fused, read) * sizes.layer_bytes_per_token
    return batch * (kept + recomputed + labels * sizes.vocabulary * 12) / GIB
