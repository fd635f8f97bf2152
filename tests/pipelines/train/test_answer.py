"""A model trained on a toy task answers it, in a batch as alone, and only from what the picture shows."""

from dataclasses import replace

import pytest
from tiny_training import COLORS, CountedSteps, color_example, save_language_model, tiny_config, tiny_run

from operators.batch import TrainingExample
from operators.collate import collate_questions, collate_training
from pipelines.train.answer import answer
from pipelines.train.assembly import Assembly, restore
from pipelines.train.checkpoint import open_checkpoint
from pipelines.train.context import check_room
from pipelines.train.loop import train
from schemas.errors import ConfigError
from schemas.record import Turn
from schemas.training import RunConfig

RUN = RunConfig(dtype="float32")


class Pictures(CountedSteps):
    """Pictures only."""

    def example(self, index: int) -> TrainingExample:
        return color_example(index)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Assembly:
    out = tmp_path_factory.mktemp("learned")
    llm = save_language_model(out / "llm")
    config = tiny_config(llm, out, data={"batch": 8, "micro_batch": 8}, run={"steps": 120, "save_every": 500})
    folder = train(tiny_run(config, Pictures(8, 8)))
    return restore(open_checkpoint(folder), to_train=False)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_answers_are_right_on_pictures_never_seen(learned: Assembly, dtype: str) -> None:
    examples = [color_example(index) for index in range(10_000, 10_012)]
    answers = answer(learned, examples, 8, RunConfig(dtype=dtype))
    assert answers == [COLORS[index % 4] for index in range(10_000, 10_012)]


def test_answers_follow_the_picture(learned: Assembly) -> None:
    examples = [replace(color_example(index), media=color_example(index + 1).media) for index in range(8)]
    assert answer(learned, examples, 8, RUN) == [COLORS[(index + 1) % 4] for index in range(8)]


def test_a_batch_answers_as_each_example_alone(learned: Assembly) -> None:
    asked = replace(color_example(3), turns=(Turn("human", "<image>\nColor? Say it in one word, please."),))
    longer = replace(
        color_example(1),
        turns=(
            Turn("human", "Color?\n<image>"),
            Turn("gpt", "blue"),
            Turn("human", "Color?"),
            Turn("gpt", "no"),
        ),
    )
    examples = [color_example(0), asked, longer, color_example(6, frames=3), color_example(2, text_only=True)]
    together = answer(learned, examples, 6, RUN)
    assert together == [answer(learned, [example], 6, RUN)[0] for example in examples]
    assert together[0] == "red"


def test_what_is_longer_than_the_context_is_refused(learned: Assembly) -> None:
    """A frame is one token here, and the language model reads 512."""
    question = TrainingExample("asked", "colors", (Turn("human", "Color?"),), ())
    length = int(collate_questions([question], learned.prompter).attention_mask.sum())
    assert len(answer(learned, [question], 512 - length, RUN)) == 1
    with pytest.raises(ConfigError, match=rf"asked takes {length} tokens.*up to {513 - length}.*reads 512"):
        answer(learned, [question], 513 - length, RUN)
    clip = color_example(1, frames=500)
    with pytest.raises(ConfigError, match=r"e1 takes 5\d\d tokens.*fewer frames.*`--reducer`"):
        answer(learned, [color_example(0), clip], 4, RUN)
    with pytest.raises(ConfigError, match=r"e1 takes 5\d\d tokens, those of its media among them, and the"):
        check_room(learned.model, collate_training([clip], learned.prompter))


def test_a_question_that_pre_fusion_cannot_read_is_refused(
    learned: Assembly, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads four patches and a compressed token before the instruction, more than the language model."""
    batch = collate_questions([color_example(1)], learned.prompter)
    num_fused = 4 + 1 + int(batch.fuse_mask.sum())
    monkeypatch.setattr(learned.model.llm.config, "max_position_embeddings", num_fused)
    check_room(learned.model, batch)
    monkeypatch.setattr(learned.model.llm.config, "max_position_embeddings", num_fused - 1)
    with pytest.raises(ConfigError, match=rf"pre-fusion reads {num_fused} tokens, 5 of a frame.*e1"):
        check_room(learned.model, batch)


def test_answers_end_after_the_given_number_of_tokens(learned: Assembly) -> None:
    assert answer(learned, [color_example(3)], 2, RUN) == ["ol"]
