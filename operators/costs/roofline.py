"""Time and memory traffic of a prefill by a roofline, operator by operator.

Each operator takes the longer of two times: its operations at the device's peak, and its bytes at the
device's bandwidth. Operators run one after the other and hand everything over by memory: no kernel is fused,
no score of attention stays on the chip. That is the model of LLM-Viewer (Yuan et al. 2024, "LLM Inference
Unveiled", section 2), which the efficiency table of PruMerge was made with; real kernels move less.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from operators.costs.shapes import FLOPS_PER_MAC, LanguageShape

SOFTMAX_OPS: Final = 5.0
"""Of a score: maximum, difference, exponential, sum, quotient."""
NORM_OPS: Final = 7.0
"""Of a number: sum, difference, square, sum, quotient, product, sum."""
GATE_OPS: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """Peaks of a device."""

    name: str
    bytes_per_s: float
    half_ops_per_s: float
    int8_ops_per_s: float
    """Serves weights and activations of 8 bits and less."""


V100: Final = Device(name="V100", bytes_per_s=900e9, half_ops_per_s=112e12, int8_ops_per_s=62e12)


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator of a prefill, all its calls of a layer together."""

    operations: float
    loaded_weights: int = 0
    loaded: int = 0
    """Activations and cached keys or values, in numbers; as the next two."""
    stored: int = 0
    """Activations."""
    cached: int = 0
    """Keys or values."""

    @property
    def numbers(self) -> int:
        """All that moves."""
        return self.loaded_weights + self.loaded + self.stored + self.cached


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """A prefill by the roofline."""

    operations: float
    seconds: float
    moved_bytes: float
    """Weights, activations, keys and values, in and out."""
    stored_bytes: float
    """Activations that are written."""


def estimate_prefill(llm: LanguageShape, tokens: int, device: Device, bits: int) -> Roofline:
    """A prompt of so many tokens, weights and activations and cache of so many bits each."""
    ops_per_s = device.int8_ops_per_s if bits <= 8 else device.half_ops_per_s
    num_bytes = bits / 8
    operators = [(one, llm.layers) for one in list_layer(llm, tokens)] + [(_make_head(llm), 1)]
    return Roofline(
        operations=sum(one.operations * count for one, count in operators),
        seconds=sum(
            count * max(one.operations / ops_per_s, one.numbers * num_bytes / device.bytes_per_s)
            for one, count in operators
        ),
        moved_bytes=sum(one.numbers * num_bytes * count for one, count in operators),
        stored_bytes=sum(one.stored * num_bytes * count for one, count in operators),
    )


def list_layer(llm: LanguageShape, tokens: int) -> Iterator[Operator]:
    """The operators of one layer."""
    hidden, keys = tokens * llm.width, tokens * llm.key_value_width
    scores = llm.heads * tokens**2
    product = FLOPS_PER_MAC * tokens**2 * llm.width
    for name, inputs, outputs in llm.linears:
        is_cached = name in ("key", "value")
        out = tokens * outputs
        yield Operator(
            FLOPS_PER_MAC * tokens * inputs * outputs,
            inputs * outputs,
            tokens * inputs,
            0 if is_cached else out,
            out if is_cached else 0,
        )
    yield Operator(product, loaded=hidden + keys, stored=scores)
    yield Operator(SOFTMAX_OPS * scores, loaded=scores, stored=scores)
    yield Operator(product, loaded=scores + keys, stored=hidden)
    for _ in ("attention", "feed-forward"):
        yield Operator(NORM_OPS * hidden, loaded=hidden, stored=hidden)
        yield Operator(float(hidden), loaded=hidden, stored=hidden)
    yield Operator(GATE_OPS * hidden, loaded=2 * hidden, stored=hidden)


def _make_head(llm: LanguageShape) -> Operator:
    """The head predicts one token: the last one's."""
    return Operator(FLOPS_PER_MAC * llm.head_weights, llm.head_weights, llm.width, llm.vocabulary)
