"""What training holds, by arithmetic: sums of sizes, nothing is run."""

from dataclasses import dataclass

from pipelines.train.model import LOGITS_PER_CHUNK

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


def peak_gib(sizes: Sizes, state_bytes: float, batch: int, tokens: int, labels: int) -> float:
    """The peak of a step that moves weights in its backward pass: one of two moments, never their sum.

    At the head: its logits, and its gradient, which stands twice while blocks of rows add up. At the end: one
    recomputed pre-fusion layer. The sums of the published-size table take both, and two gradients always, so
    they lie up to a tenth above this.
    """
    fused, read = 576 + 1 + tokens, 1 + tokens
    num_logits = batch * labels * sizes.vocabulary
    gradients = 2 if num_logits > LOGITS_PER_CHUNK else 1
    at_head = gradients * 2 * sizes.head + num_logits * 12
    at_end = batch * max(fused, read) * sizes.layer_bytes_per_token
    kept = batch * sizes.hidden_bytes * (4 * fused + sizes.layers * read)
    held = 2 * sizes.parameters + state_bytes * sizes.trainable
    return (held + kept + max(at_head, at_end)) / GIB


def activation_gib(sizes: Sizes, batch: int, tokens: int, labels: int) -> float:
    """Of recomputed layers their input, of one layer everything; logits of the learned rows."""
    fused, read = 576 + 1 + tokens, 1 + tokens
    kept = sizes.hidden_bytes * (4 * fused + sizes.layers * read)
    recomputed = max(fused, read) * sizes.layer_bytes_per_token
    return batch * (kept + recomputed + labels * sizes.vocabulary * 12) / GIB
