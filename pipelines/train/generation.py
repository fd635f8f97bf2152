"""Greedy answers to the questions of a batch.

Media are fused once, with the same role-based masks as in training; then one token a step through the
library's key-value cache. Rows stay right-padded: the padding inside the cache is masked, and each row counts
its own positions, so a row's answer does not depend on its batch mates.
Leaves out sampling, beams and streaming: answers serve evaluation.
"""

from collections.abc import Set as AbstractSet
from typing import NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from transformers import DynamicCache

from operators.batch import ModelBatch
from pipelines.train.model import OneTokenModel


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
    rows, layout = model.splice(batch)
    cache = DynamicCache(config=model.llm.config)
    lengths = torch.tensor(layout.lengths, device=rows.device)
    hidden: Tensor = model.llm.base_model(
        inputs_embeds=rows, use_cache=True, past_key_values=cache
    ).last_hidden_state
    last = hidden[torch.arange(len(layout.lengths), device=rows.device), lengths - 1]
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
