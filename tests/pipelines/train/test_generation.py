"""Cached greedy decoding against running the whole model again for every token."""

from dataclasses import replace

import pytest
import torch
from tiny_models import Say, select_example, slow_rows, tiny_batch, tiny_model

from operators.batch import IGNORED_LABEL, ModelBatch
from pipelines.train import generation
from pipelines.train.generation import generate_tokens
from pipelines.train.live_bytes import LiveBytes
from pipelines.train.model import OneTokenModel
from pipelines.train.shape import ActivationPlan

MIXED = [
    [Say("human", 5, (1,))],
    [Say("human", 3), Say("human", 9, (3,)), Say("gpt", 4), Say("human", 2)],
    [Say("human", 6)],
]
NUM_TOKENS = 7


def slow_tokens(model: OneTokenModel, batch: ModelBatch, num_tokens: int) -> list[list[int]]:
    answers = []
    with torch.no_grad():
        for rows in slow_rows(model, batch):
            answer: list[int] = []
            for _ in range(num_tokens):
                logits = model.llm(inputs_embeds=rows[None], use_cache=False).logits
                answer.append(int(logits[0, -1].argmax()))
                rows = torch.cat([rows, model.token_embeddings(torch.tensor(answer[-1:]))])
            answers.append(answer)
    return answers


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("checkpoint", [False, True])
def test_cache_changes_no_token(stage: int, checkpoint: bool) -> None:
    model = tiny_model(stage, plan=ActivationPlan(checkpoint=checkpoint))
    batch = tiny_batch(MIXED)
    expected = slow_tokens(model, batch, NUM_TOKENS)
    assert len({tuple(answer) for answer in expected}) == len(MIXED)
    assert max(len(set(answer)) for answer in expected) > 2
    assert model.training
    assert generate_tokens(model, batch, NUM_TOKENS, set()) == expected
    assert model.training


def test_answers_end_before_their_first_stop() -> None:
    model, batch = tiny_model(), tiny_batch(MIXED)
    answers = generate_tokens(model, batch, NUM_TOKENS, set())
    stops = {answers[0][3], answers[1][1]}

    def cut(answer: list[int]) -> list[int]:
        ends = [place for place, token in enumerate(answer) if token in stops]
        return answer[: ends[0]] if ends else answer

    expected = [cut(answer) for answer in answers]
    assert expected != answers
    assert generate_tokens(model, batch, NUM_TOKENS, stops) == expected


def test_mates_do_not_change_an_answer() -> None:
    model, batch = tiny_model(), tiny_batch(MIXED, padding=4)
    alone = [
        generate_tokens(model, select_example(batch, index), NUM_TOKENS, set())[0]
        for index in range(len(MIXED))
    ]
    assert generate_tokens(model, batch, NUM_TOKENS, set()) == alone


def test_labels_are_not_read() -> None:
    model = tiny_model()
    batch = tiny_batch([[Say("human", 4, (1,)), Say("gpt", 3), Say("human", 2)]])
    assert (batch.labels != IGNORED_LABEL).any()
    without = replace(batch, labels=torch.full_like(batch.labels, IGNORED_LABEL))
    assert generate_tokens(model, batch, 5, set()) == generate_tokens(model, without, 5, set())


def test_media_are_fused_once() -> None:
    model = tiny_model()
    sizes: list[int] = []
    model.prefusion.register_forward_pre_hook(lambda _, rows: sizes.append(rows[0].shape[0]))
    generate_tokens(model, tiny_batch(MIXED), NUM_TOKENS, set())
    assert sizes == [4]


@pytest.mark.parametrize(("frames", "rows"), [(1, 1), (2, 3), (3, 5)])
def test_stretches_change_no_token(monkeypatch: pytest.MonkeyPatch, frames: int, rows: int) -> None:
    model, batch = tiny_model(), tiny_batch(MIXED, views=5)
    expected = slow_tokens(model, batch, NUM_TOKENS)
    monkeypatch.setattr(generation, "FRAMES_AT_ONCE", frames)
    monkeypatch.setattr(generation, "ROWS_AT_ONCE", rows)
    assert generate_tokens(model, batch, NUM_TOKENS, set()) == expected


def test_text_alone_is_answered() -> None:
    model, batch = tiny_model(), tiny_batch([[Say("human", 6)], [Say("human", 3)]])
    assert generate_tokens(model, batch, NUM_TOKENS, set()) == slow_tokens(model, batch, NUM_TOKENS)


def grow_per_frame(few: int, many: int) -> float:
    """Bytes that a frame more takes at the peak of an answer, features aside."""
    model = tiny_model(grid=1)
    peaks = []
    for frames in (few, many):
        batch = tiny_batch([[Say("human", 8, (frames,))]])
        live = LiveBytes()
        live.count([*model.parameters(), *model.buffers(), batch.frames])
        with live:
            generate_tokens(model, batch, 2, set())
        peaks.append(live.peak - batch.frames.nbytes)
    return (peaks[1] - peaks[0]) / (many - few)


CACHE_BYTES = 2 * 2 * 2 * 8 * 4
"""Of a token: keys and values, 2 layers, 2 heads of 8 numbers in float32."""
ROW_BYTES = 32 * 4
MASK_BYTES = 5
"""Of a pair of tokens: a boolean, and the number that is added to its score."""


@pytest.mark.parametrize(("few", "many"), [(100, 200), pytest.param(5_000, 10_000, marks=pytest.mark.slow)])
def test_a_long_clip_takes_its_cache_and_its_rows(
    monkeypatch: pytest.MonkeyPatch, few: int, many: int
) -> None:
    """While it grows, the cache of a layer stands twice, for each head; rows stand in a few forms."""
    monkeypatch.setattr(generation, "FRAMES_AT_ONCE", 50)
    monkeypatch.setattr(generation, "ROWS_AT_ONCE", 20)
    most = 4 * CACHE_BYTES + 6 * ROW_BYTES + 20 * MASK_BYTES
    assert grow_per_frame(few, many) <= most
    if many < 5_000:
        monkeypatch.setattr(generation, "FRAMES_AT_ONCE", many)
        assert grow_per_frame(few, many) > 4 * most


def test_no_tokens_wanted() -> None:
    assert generate_tokens(tiny_model(), tiny_batch(MIXED), 0, set()) == [[], [], []]
