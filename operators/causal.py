"""Causal attention without a mask, wherever rows are whole and padded on the right.

What a token reads stands before it, so the fused kernel's own causal mode is enough. The library would find
out by looking at positions, which costs a synchronization a step, and builds a dense mask of length x length
when it cannot look (as when memory is predicted). Here a mask exists only where one is needed: for padding
inside a cache, and for a sliding window that is shorter than the row.

Examples that share one row attend one by one, each through the same kernel: the library would build a mask
of the whole row squared, with which no fused causal kernel runs. Cost: a call an example and layer, and a
copy of what they give. Left out: torch's `varlen_attn`, one call for all of them, which needs a GPU and half
precision.
"""

from collections.abc import Sequence
from typing import Any, Final, cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    PretrainedConfig,
    PreTrainedModel,
    masking_utils,
)
from transformers.integrations import sdpa_attention

from schemas.errors import ConfigError

CAUSAL_ATTENTION: Final = "onetoken_causal"


def use_causal_kernel(model: PreTrainedModel) -> None:
    """Let a decoder attend through the fused kernel, with a mask only where it needs one."""
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


def share_row(lengths: Sequence[int], positions: Int64[Tensor, "1 length"]) -> dict[str, object]:
    """What a decoder is called with where examples of these lengths stand in one row, one after another.

    The library hands a mask of four dimensions on as it is, and so makes none; `attend` does without. This
    one covers no key: a model that drops the lengths on the way fails by it, and mixes no examples.
    """
    return {
        "position_ids": positions,
        "attention_mask": torch.empty(1, 1, 1, 0, dtype=torch.bool),
        "example_lengths": tuple(lengths),
    }


def check_shareable(config: PretrainedConfig) -> None:
    """Refuse a decoder whose layers look at more than attention by positions would show.

    Raises:
        ConfigError: it has layers that attend in chunks, or remember without attending.
    """
    told = [getattr(config, name, None) for name in ("layer_types", "layers_block_type", "block_types")]
    kinds = {kind for kinds in cast("list[list[str] | None]", told) for kind in kinds or ()}
    others = sorted(kinds - {"full_attention", "sliding_attention"})
    if others:
        raise ConfigError(
            f"a {config.model_type} has layers of {', '.join(others)}, which would mix the examples of a "
            "pack; write `data: {unit: cell}`"
        )


def attend(
    module: Any,  # noqa: ANN401 - a layer of the library's
    query: Float[Tensor, "batch heads length width"],
    key: Float[Tensor, "batch key_heads keys width"],
    value: Float[Tensor, "batch key_heads keys width"],
    attention_mask: Tensor | None,
    *,
    example_lengths: Sequence[int] | None = None,
    **rest: Any,  # noqa: ANN401 - handed on to the library
) -> tuple[Float[Tensor, "batch length heads width"], None]:
    """The library's attention, of the whole row or within each of the examples that share it."""
    kernel = cast(Any, sdpa_attention).sdpa_attention_forward
    if example_lengths is None:
        return kernel(module, query, key, value, attention_mask, **rest)
    lengths, window = list(example_lengths), cast("int | None", rest.get("sliding_window"))
    parts = (cast(Any, rows).split(lengths, dim=2) for rows in (query, key, value))
    attended: list[Tensor] = [
        kernel(module, *own, _make_window(own[0], window), **rest)[0] for own in zip(*parts, strict=True)
    ]
    return torch.cat(attended, dim=1), None


def _make_window(query: Float[Tensor, "batch heads length width"], size: int | None) -> Tensor | None:
    """Which tokens see which, where an example is longer than a sliding window."""
    length = query.shape[2]
    if size is None or length <= size:
        return None
    seen = torch.ones(length, length, dtype=torch.bool, device=query.device)
    return seen.tril().triu(1 - size)[None, None]
