"""What the class token of an encoder's next layer looks at, recomputed from cached rows.

PruMerge and its kin choose patches by the last layer's keys and by the attention that the class token pays
them (Shang et al. 2024, "LLaVA-PruMerge", section 3). Both follow from the rows that enter that layer
(LLaVA's `hidden_states[-2]`, class row included) and from three of its weights. Those are stored once per
feature spec, about 8 MB for ViT-L, so features cached today can be reduced tomorrow without the encoder.

The steps and their order are those of transformers' eager attention: the numbers are the same, bit for bit
(tested). That costs whole attention maps, 21 MB a view in fp32 for ViT-L/14-336; the one row that is wanted,
multiplied alone, would take another kernel and end in other bits.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from jaxtyping import Float
from torch import Tensor, device, float32, matmul
from torch.nn import functional

TENSOR_NAMES: Final = ("key.bias", "key.weight", "norm.bias", "norm.weight", "query.bias", "query.weight")


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionWeights:
    """First norm, query and key of a layer."""

    tensors: Mapping[str, Tensor]
    """By `TENSOR_NAMES`."""
    num_heads: int
    norm_epsilon: float

    def to(self, device: device) -> "AttentionWeights":
        """The same on a device."""
        return replace(self, tensors={name: tensor.to(device) for name, tensor in self.tensors.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassAttention:
    """What patch choosers need."""

    attention: Float[Tensor, "views heads patches"]
    """Softmax over all rows; the class row's own share is left out, so a head sums to less than 1."""
    class_query: Float[Tensor, "views heads head_width"]
    class_key: Float[Tensor, "views heads head_width"]
    keys: Float[Tensor, "views heads patches head_width"]


def attend_from_class(rows: Float[Tensor, "views rows width"], weights: AttentionWeights) -> ClassAttention:
    """Attention, query and keys of the layer that `rows` enter; the class row stands first."""
    tensors = weights.tensors
    num_views, num_rows, width = rows.shape
    normed = functional.layer_norm(
        rows, (width,), tensors["norm.weight"], tensors["norm.bias"], weights.norm_epsilon
    )
    by_head = (num_views, num_rows, weights.num_heads, width // weights.num_heads)
    queries = functional.linear(normed, tensors["query.weight"], tensors["query.bias"])
    keys = functional.linear(normed, tensors["key.weight"], tensors["key.bias"])
    queries = queries.view(by_head).transpose(1, 2)
    keys = keys.view(by_head).transpose(1, 2)
    scores = matmul(queries, keys.transpose(-1, -2)) * (width // weights.num_heads) ** -0.5
    attention = functional.softmax(scores, dim=-1, dtype=float32).to(queries.dtype)
    return ClassAttention(
        attention=attention[:, :, 0, 1:],
        class_query=queries[:, :, 0],
        class_key=keys[:, :, 0],
        keys=keys[:, :, 1:],
    )
