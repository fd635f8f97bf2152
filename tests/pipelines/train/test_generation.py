"""Cached greedy decoding against running the whole model again for every token."""

from dataclasses import replace

import pytest
import torch
from tiny_models import Say, select_example, slow_rows, tiny_batch, tiny_model

from operators.batch import IGNORED_LABEL, ModelBatch
from pipelines.train.generation import generate_tokens
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
    calls: list[int] = []
    model.prefusion.register_forward_pre_hook(lambda *_: calls.append(1))
    generate_tokens(model, tiny_batch(MIXED), NUM_TOKENS, set())
    assert len(calls) == 1


def test_no_tokens_wanted() -> None:
    assert generate_tokens(tiny_model(), tiny_batch(MIXED), 0, set()) == [[], [], []]
