"""Rows, masks and frames of batches, against hand-written ones."""

import pytest
import torch

from operators.batch import IGNORED_LABEL, MEDIUM_TOKEN, MediumFeatures, TrainingExample
from operators.collate import collate_questions, collate_training
from operators.prompt import Prompt, PromptSize, measure_prompt
from schemas.errors import MismatchError, RejectCode, SampleError
from schemas.record import Turn

L, M = IGNORED_LABEL, MEDIUM_TOKEN


class OneTokenAWord:
    """Each word is its length; human turns are fused, answers learned, media before their turn."""

    stop_ids: frozenset[int] = frozenset({0})
    digest: str = "words"
    max_tokens: int = 99

    def measure_training(self, turns: tuple[Turn, ...], num_media: int) -> PromptSize:
        return measure_prompt(self.write_training(turns, num_media))

    def write_training(self, turns: tuple[Turn, ...], num_media: int) -> Prompt:
        if turns[-1].role != "gpt":
            raise SampleError(RejectCode.BAD_ROLE, "no answer")
        ids, labels, fused = [M] * num_media, [L] * num_media, [False] * num_media
        for turn in turns:
            words = [len(word) for word in turn.text.split()]
            ids += words
            labels += words if turn.role == "gpt" else [L] * len(words)
            fused += [turn.role == "human"] * len(words)
        return Prompt(tuple(ids), tuple(labels), tuple(fused))

    def write_question(self, turns: tuple[Turn, ...], num_media: int) -> Prompt:
        whole = self.write_training((*turns, Turn("gpt", "")), num_media)
        return Prompt(whole.token_ids, (L,) * len(whole.labels), whole.fuse_mask)


def example(name: str, texts: list[str], frames: list[int], views: int = 1) -> TrainingExample:
    turns = tuple(Turn("gpt" if index % 2 else "human", text) for index, text in enumerate(texts))
    media = tuple(MediumFeatures(torch.full((count, views, 4, 2), float(count))) for count in frames)
    return TrainingExample(name, "source", turns, media)


def test_rows_are_right_padded_and_frames_concatenated() -> None:
    examples = [
        example("a", ["x xx", "xxx"], [2, 1]),
        example("b", ["x", "xx xx x"], []),
        example("c", ["", "x"], [3]),
    ]
    batch = collate_training(examples, OneTokenAWord())
    assert batch.token_ids.tolist() == [[M, M, 1, 2, 3], [1, 2, 2, 1, 0], [M, 1, 0, 0, 0]]
    assert batch.labels.tolist() == [[L, L, L, L, 3], [L, 2, 2, 1, L], [L, 1, L, L, L]]
    assert batch.fuse_mask.int().tolist() == [[0, 0, 1, 1, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
    assert batch.attention_mask.sum(dim=1).tolist() == [5, 4, 2]
    assert batch.frames is not None
    assert batch.frames[:, 0, 0, 0].tolist() == [2, 2, 1, 3, 3, 3]
    assert batch.frames_per_medium == (2, 1, 3)
    assert batch.media_per_example == (2, 0, 1)
    assert batch.example_ids == ("a", "b", "c")


def test_questions_leave_the_last_answer_out() -> None:
    turns = ["x", "xx", "xxx"]
    asked, answered = example("a", turns, []), example("b", [*turns, "xxxx"], [])
    batch = collate_questions([asked, answered], OneTokenAWord())
    assert batch.token_ids.tolist() == [[1, 2, 3], [1, 2, 3]]
    assert (batch.labels == L).all()
    assert batch.frames is None


def test_examples_with_other_views_are_refused() -> None:
    pair = [example("a", ["x", "x"], [1], views=1), example("b", ["x", "x"], [1], views=5)]
    with pytest.raises(MismatchError, match=r"\(1, 4, 2\), \(5, 4, 2\)"):
        collate_training(pair, OneTokenAWord())


def test_an_unusable_example_is_named() -> None:
    with pytest.raises(SampleError, match="example b of source: no answer") as caught:
        collate_training([example("a", ["x", "x"], []), example("b", ["x"], [])], OneTokenAWord())
    assert caught.value.code is RejectCode.BAD_ROLE
