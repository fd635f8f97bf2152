"""Causal attention without a mask, wherever rows are whole and padded on the right.

What a token reads stands before it, so the fused kernel's own causal mode is enough. The library would find
out by looking at positions, which costs a synchronization a step, and builds a dense mask of length x length
when it cannot look (as when memory is predicted). Here a mask exists only where one is needed: for padding
inside a cache, and for a sliding window that is shorter than the row.
"""

from typing import Any, Final, cast

from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel, masking_utils
from transformers.integrations import sdpa_attention

CAUSAL_ATTENTION: Final = "onetoken_causal"


def use_causal_kernel(model: PreTrainedModel) -> None:
    """Let a decoder attend through the fused kernel, with a mask only where it needs one."""
    attend = cast(Any, sdpa_attention).sdpa_attention_forward
    cast(Any, AttentionInterface).register(CAUSAL_ATTENTION, attend)
    cast(Any, AttentionMaskInterface).register(CAUSAL_ATTENTION, make_mask)
    cast(Any, model.config)._attn_implementation = CAUSAL_ATTENTION


def make_mask(
    *,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    attention_mask: Tensor | None = None,
    local_size: int | None = None,
    **rest: Any,  # noqa: ANN401 - handed on to the library
) -> Tensor | None:
    """The library's mask; None where rows are read whole, and nothing says that tokens are padding."""
    is_whole = q_length == kv_length or q_length == 1
    if attention_mask is None and is_whole and (local_size is None or kv_length < local_size):
        return None
    return cast(Any, masking_utils).sdpa_mask(
        q_length=q_length,
        kv_length=kv_length,
        q_offset=q_offset,
        attention_mask=attention_mask,
        local_size=local_size,
        **rest,
    )
