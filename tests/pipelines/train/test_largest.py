"""Which micro-batches are the largest: against all that there could be, one by one."""

from dataclasses import replace
from itertools import product

import pytest

from operators.batch import IGNORED_LABEL
from pipelines.train.largest import ExampleBounds, FeatureShape, list_largest_steps
from pipelines.train.shape import tokens_of_frame
from pipelines.train.step_shape import StepShape, make_batch
from schemas.configuration import build
from schemas.training import TrainConfig

TEXTS = ExampleBounds(text=100, instruction=99, answer=99)
HD = FeatureShape(views=5)


def config_of(micro_batch: int = 3, **sections: dict[str, object]) -> TrainConfig:
    data = {"batch": micro_batch, "micro_batch": micro_batch} | sections.pop("data", {})
    value = {"corpus": "c", "out": "o", "stage": 2, "data": data, **sections}
    return build(value, TrainConfig, "test")


def test_of_clips_and_pictures_in_views_those_with_more_patches_count() -> None:
    config = config_of(data={"views": "all"})
    picture = StepShape(num_examples=3, num_tokens=100, num_labels=99, num_fused=99, views_per_frame=5)
    clip = replace(picture, views_per_frame=1)
    assert list_largest_steps(config, TEXTS, HD) == (picture,)
    assert list_largest_steps(config, replace(TEXTS, frames=8), HD) == (replace(clip, num_frames=8),)
    few = list_largest_steps(config, replace(TEXTS, frames=2), HD)
    assert few == (picture, replace(clip, num_frames=2)), "more patches, or more tokens to read"
    several = list_largest_steps(config, replace(TEXTS, frames=8, pictures=3), HD)
    assert several == (replace(picture, num_frames=3), replace(clip, num_frames=8))


def test_whole_pictures_and_clips_share_batches() -> None:
    clips = replace(TEXTS, frames=6, pictures=2)
    (step,) = list_largest_steps(config_of(), clips, FeatureShape())
    assert (step.num_frames, step.views_per_frame) == (6, 1)
    (step,) = list_largest_steps(config_of(), replace(TEXTS, pictures=0), FeatureShape())
    assert step.num_frames == 0
    assert make_batch(step).frames is None


def test_no_example_is_longer_than_the_language_model_reads() -> None:
    """Fewer frames with more text can be the larger: both fit together, as many as there are."""
    config = config_of(model={"grid": 8})
    bounds = ExampleBounds(frames=512, text=2048, instruction=2047, answer=2047)
    steps = list_largest_steps(config, bounds, FeatureShape(), 4096)
    assert all(64 * step.num_frames + step.num_tokens <= 4096 for step in steps)
    sizes = {
        frames: frames * (576 + min(2048, 4096 - 64 * frames) - 1)
        for frames in range(1, 63)
        if 4096 - 64 * frames >= 32
    }
    assert max(step.num_frames * (575 + step.num_tokens) for step in steps) == max(sizes.values())


@pytest.mark.parametrize("unit", ["cell", "pack"])
def test_a_budget_is_filled_with_short_texts_and_with_long_ones(unit: str) -> None:
    """Against every unit that the budget lets through."""
    config = config_of(data={"unit": unit, "unit_tokens": 512, "units": 1})
    bounds = ExampleBounds(frames=4, text=300, instruction=200, answer=250, shortest=20)
    steps = list_largest_steps(config, bounds, FeatureShape())
    every = [(512 // (text + frames), text, frames) for text, frames in product(range(20, 301), range(1, 5))]
    most_frames = max(examples * frames for examples, _, frames in every)
    assert max(step.total_frames for step in steps) == most_frames
    for step in steps:
        assert step.num_examples * (step.num_tokens + step.num_frames) <= 512
    read = max(examples * (text + frames) for examples, text, frames in every)
    assert max(step.num_examples * (step.num_tokens + step.num_frames) for step in steps) >= 0.98 * read


def test_what_a_reducer_keeps_of_all_views_is_read() -> None:
    config = config_of(model={"reducer": "all", "prefusion": {"layers": 0}}, data={"views": "all"})
    assert tokens_of_frame(config, 5, 576) == 2880
    (step,) = list_largest_steps(config, TEXTS, HD, 4096)
    assert (step.num_frames, step.views_per_frame) == (1, 5)


def test_one_example_has_a_long_instruction_or_a_long_answer() -> None:
    steps = list_largest_steps(config_of(1), TEXTS, FeatureShape())
    assert {(step.num_labels, step.longest_instruction) for step in steps} == {(1, 99), (99, 1)}


def test_a_batch_has_the_longest_instruction_and_the_longest_answers() -> None:
    step = StepShape(num_examples=3, num_tokens=10, num_labels=8, num_fused=7, num_patches=4, encoder_width=2)
    batch = make_batch(step)
    assert batch.fuse_mask.sum(dim=1).tolist() == [7, 2, 2]
    assert (batch.labels != IGNORED_LABEL).sum(dim=1).tolist() == [3, 8, 8]
    plain = make_batch(replace(step, num_fused=None))
    assert plain.fuse_mask.sum(dim=1).tolist() == [2, 2, 2]
    assert (plain.labels != IGNORED_LABEL).sum(dim=1).tolist() == [8, 8, 8]
