"""Greedy answers to the questions of a batch.

Media are fused once, with the same role-based masks as in training, some frames at a time; the prompt is read
in stretches, then one token a step, through the library's key-value cache. So a long clip takes its cache and
a few hidden rows for each of its compressed tokens, and no more. Rows stay right-padded: the padding inside
the cache is masked, and each row counts its own positions, so a row's answer does not depend on its batch
mates. Leaves out sampling, beams and streaming: answers serve evaluation.
"""

from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from transformers import DynamicCache

from operators.batch import ModelBatch
from pipelines.train.model import OneTokenModel

FRAMES_AT_ONCE: Final = 16
ROWS_AT_ONCE: Final = 512
"""Rows of the prompt that the language model reads at once."""


class DecodingState(NamedTuple):
    """What the next step needs besides the last tokens."""

    cache: DynamicCache
    attended: Bool[Tensor, "batch length"]
    positions: Int64[Tensor, " batch"]


def generate_tokens(
    model: OneTokenModel, batch: ModelBatch, max_new_tokens: int, stop_ids: AbstractSet[int]
) -> list[list[int]]:
    """The most likely continuation of each row, up to and without its first stop id; labels are not read."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            return _decode(model, batch, max_new_tokens, stop_ids)
    finally:
        model.train(was_training)


def _decode(
    model: OneTokenModel, batch: ModelBatch, max_new_tokens: int, stop_ids: AbstractSet[int]
) -> list[list[int]]:
    answers: list[list[int]] = [[] for _ in batch.example_ids]
    running = set(range(len(answers))) if max_new_tokens else set[int]()
    if not running:
        return answers
    last, state = _read(model, batch)
    while True:
        tokens = cast("Tensor", model.head(last)).argmax(dim=1)
        token_ids = cast("list[int]", tokens.tolist())  # pyright: ignore[reportUnknownMemberType]
        for row, token in enumerate(token_ids):
            if row in running and token not in stop_ids:
                answers[row].append(token)
            if token in stop_ids or len(answers[row]) == max_new_tokens:
                running.discard(row)
        if not running:
            return answers
        last, state = _step(model, tokens, state)


def _read(model: OneTokenModel, batch: ModelBatch) -> tuple[Float[Tensor, "batch width"], DecodingState]:
    """Fill the cache from the prompt; the state of each row's last token predicts the first new one."""
    size = model.plan.frames_per_chunk or FRAMES_AT_ONCE
    rows, layout = model.splice(batch, frames_at_once=size)
    cache = DynamicCache(config=model.llm.config)
    lengths = torch.tensor(layout.lengths, device=rows.device)
    last = torch.zeros_like(rows[:, 0])
    for first in range(0, rows.shape[1], ROWS_AT_ONCE):
        hidden: Tensor = model.llm.base_model(
            inputs_embeds=rows[:, first : first + ROWS_AT_ONCE], use_cache=True, past_key_values=cache
        ).last_hidden_state
        places = (lengths - 1 - first).clamp(0, hidden.shape[1] - 1)
        ends = hidden[torch.arange(len(lengths), device=rows.device), places]
        is_here = (lengths > first) & (lengths <= first + ROWS_AT_ONCE)
        last = torch.where(is_here[:, None], ends.to(last.dtype), last)
    attended = torch.arange(rows.shape[1], device=rows.device) < lengths[:, None]
    return last, DecodingState(cache, attended, lengths)


def _step(
    model: OneTokenModel, tokens: Int64[Tensor, " batch"], state: DecodingState
) -> tuple[Float[Tensor, "batch width"], DecodingState]:
    """Read one token per row."""
    attended = torch.cat([state.attended, state.attended.new_ones(tokens.shape[0], 1)], dim=1)
    hidden: Tensor = model.llm.base_model(
        inputs_embeds=model.embed(tokens[:, None]),
        attention_mask=attended,
        position_ids=state.positions[:, None],
        past_key_values=state.cache,
        use_cache=True,
    ).last_hidden_state
    return hidden[:, -1], DecodingState(state.cache, attended, state.positions + 1)
