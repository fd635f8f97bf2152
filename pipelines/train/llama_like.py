"""Whether a language model computes as its parts say: checked on the model itself, before anything trains.

Training calls a model's parts: embeddings, decoder, output head. Some models do something between them that
the parts do not show: they scale embeddings or logits, cap logits, or attend otherwise than by dot products
alone. Called by parts, they would train on a wrong loss and never say so. So the whole is held against the
parts on a few tokens: first with no layer between embeddings and head, then with one layer of each kind,
attending by the library's plain formula and as training does. What a layer does inside is its own affair.

Names of settings would not do: every kind spells its scale otherwise, and a neutral one does no harm. Cost:
a second for a model of 7B, whose other layers are not read.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from operators.causal import use_causal_kernel
from schemas.errors import ConfigError

NUM_TOKENS: Final = 5
LARGE: Final = 1000.0
"""Logits are compared up to this size, where a cap would show."""
ROUNDINGS: Final = 4
"""Of the coarser numbers: the difference that may lie between two ways to compute, as a share of all."""
LEAST_DIFFERENCE: Final = 1e-4
USABLE: Final = "Vicuna, Llama 2 or 3, TinyLlama, Mistral, Qwen2, Qwen3, Phi-3, Gemma"


def check_language_model(llm: PreTrainedModel, name: str) -> None:
    """Refuse a model that is not built like Llama, or does what its parts do not show.

    Raises:
        ConfigError: naming the parts that it lacks, or what it does.
    """
    body = cast(object, llm.base_model)
    lacking = [part for part in ("embed_tokens", "layers", "norm") if not hasattr(body, part)]
    if lacking or llm.get_output_embeddings() is None:
        missing = ", ".join(lacking) or "an output head"
        raise ConfigError(
            f"`model.llm: {name}` is a {type(llm).__name__} and lacks {missing}; use a model built like "
            f"Llama ({USABLE})"
        )
    with torch.no_grad():
        habit = _find_scale(llm) or _find_other_attention(llm)
    if habit is not None:
        raise ConfigError(
            f"`model.llm: {name}` is a {type(llm).__name__} and {habit}, which training by parts would leave "
            f"out; use a model built like Llama ({USABLE})"
        )


def _find_scale(llm: PreTrainedModel) -> str | None:
    """What happens between embeddings and head with no layer between them."""
    model, body = cast(Any, llm), cast(Any, llm.base_model)
    head = cast(Any, llm.get_output_embeddings())
    token_ids = _some_tokens(llm)
    with _reduced_to(llm, nn.ModuleList(), nn.Identity()):
        rows: Tensor = body.embed_tokens(token_ids)
        if not _agree(body(input_ids=token_ids, use_cache=False).last_hidden_state, rows):
            return "changes token embeddings before its layers read them"
        if not _agree(body(inputs_embeds=rows, use_cache=False).last_hidden_state, rows):
            return "changes what its layers are given to read"
        large = rows * (LARGE / head(rows).abs().amax().clamp(min=1e-6))
        if not _agree(model(inputs_embeds=large, use_cache=False).logits, head(large)):
            return "scales or caps its logits"
    return None


def _find_other_attention(llm: PreTrainedModel) -> str | None:
    """Whether layers attend otherwise than the fused kernel does."""
    body, config = cast(Any, llm.base_model), cast(Any, llm.config)
    rows = body.embed_tokens(_some_tokens(llm))
    before = config._attn_implementation
    with _reduced_to(llm, _one_of_each_kind(llm), body.norm):
        try:
            config._attn_implementation = "eager"
            plain: Tensor = body(inputs_embeds=rows, use_cache=False).last_hidden_state
            use_causal_kernel(llm)
            fused: Tensor = body(inputs_embeds=rows, use_cache=False).last_hidden_state
        except ValueError as error:
            return f"attends in a way that the fused kernel does not know ({error})"
        finally:
            config._attn_implementation = before
    return None if _agree(fused, plain) else "attends otherwise than by dot products alone"


def _some_tokens(llm: PreTrainedModel) -> Tensor:
    """Tokens from the middle of the vocabulary: those of the edges may be padding, which is all zeros."""
    table = cast(Any, llm.get_input_embeddings()).weight
    middle = table.shape[0] // 2
    return torch.arange(middle, min(middle + NUM_TOKENS, table.shape[0]), device=table.device)[None]


def _one_of_each_kind(llm: PreTrainedModel) -> nn.ModuleList:
    layers = cast(nn.ModuleList, llm.base_model.layers)
    kinds: list[str] = getattr(llm.config, "layer_types", None) or ["full_attention"] * len(layers)
    last = max(kinds.index(kind) for kind in dict.fromkeys(kinds[: len(layers)]))
    return layers[: last + 1]


@contextmanager
def _reduced_to(llm: PreTrainedModel, layers: nn.ModuleList, norm: nn.Module) -> Generator[None]:
    """For a while the decoder has these layers and this norm instead of its own."""
    body = cast(Any, llm.base_model)
    own = body.layers, body.norm
    body.layers, body.norm = layers, norm
    try:
        yield
    finally:
        body.layers, body.norm = own


def _agree(one: Tensor, other: Tensor) -> bool:
    norm = cast(Any, torch.linalg).vector_norm
    tolerance = max(ROUNDINGS * torch.finfo(other.dtype).eps, LEAST_DIFFERENCE)
    return bool(norm(one.float() - other.float()) <= tolerance * norm(other.float()))
