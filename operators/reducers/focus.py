"""The focus of a view, from its cached rows and the attention weights of its feature spec.

The paper of PruMerge writes class attention without heads (Shang et al. 2024, section 3.2, equation 3). Two
readings are given. Each head's softmax, then the mean over heads, is what attention is in the encoder. One
softmax over the product of whole rows, as if there were one head, is what the released code computes; its
logits are the sum of the heads' logits over the root of their number.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from operators.class_attention import AttentionWeights, attend_from_class
from operators.reducers.interface import Focus


def focus_view(
    class_row: Float[Tensor, " width"], patches: Float[Tensor, "patches width"], weights: AttentionWeights
) -> Focus:
    """What the layer of `weights` makes of a view; computed in the dtype of the weights."""
    dtype = weights.tensors["key.weight"].dtype
    rows = torch.cat([class_row[None], patches]).to(dtype)[None]
    found = attend_from_class(rows, weights)
    keys = found.keys[0].transpose(0, 1).flatten(1)
    return Focus(
        attention=found.attention[0].float().mean(dim=0),
        joined_attention=_join_heads(found.class_query[0], found.class_key[0], keys),
        keys=keys,
        num_heads=weights.num_heads,
    )


def _join_heads(
    class_query: Float[Tensor, "heads head_width"],
    class_key: Float[Tensor, "heads head_width"],
    keys: Float[Tensor, "patches width"],
) -> Float[Tensor, " patches"]:
    all_keys = torch.cat([class_key.flatten()[None], keys])
    scores = all_keys @ class_query.flatten() * keys.shape[1] ** -0.5
    return torch.softmax(scores.float(), dim=0)[1:]
