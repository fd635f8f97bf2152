"""Models over reduced frames: ragged ones against frames cut to their own length, one example at a time."""

from dataclasses import replace

import pytest
import torch
from tiny_models import ENCODER_WIDTH, PATCHES, Say, select_example, tiny_batch, tiny_llm

from operators.batch import ModelBatch
from pipelines.train.model import OneTokenModel, build_model
from pipelines.train.shape import ActivationPlan, ModelShape, Stage
from schemas.errors import MismatchError
from schemas.reducer import ReducerConfig

TALK = [
    [Say("human", 3, frames=(1,)), Say("gpt", 4)],
    [Say("human", 2), Say("gpt", 2)],
    [Say("human", 5, frames=(2, 1)), Say("gpt", 3)],
]
COUNTS = (3, 1, 4, 2)


def reducing_model(
    reducer: ReducerConfig, stage: Stage = 2, layers: int = 1, **plan: object
) -> OneTokenModel:
    shape = ModelShape(
        encoder_width=ENCODER_WIDTH,
        num_prefusion_layers=layers,
        prefusion_init="random",
        num_compressor_heads=2,
        reducer=reducer,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_model(tiny_llm(), shape, stage, plan=ActivationPlan(**plan)).train()


def ragged_batch(padding: float = 0.0) -> ModelBatch:
    """Frames of 3, 1, 4 and 2 tokens, anything behind them."""
    batch = tiny_batch(TALK)
    frames = batch.frames.clone()
    for frame, count in zip(frames, COUNTS, strict=True):
        frame[:, count:] = padding
    return replace(batch, frames=frames, frame_tokens=COUNTS)


def cut_losses(model: OneTokenModel, batch: ModelBatch) -> list[float]:
    """Each example by itself, its frames as long as its own longest."""
    losses = []
    for index in range(len(batch.example_ids)):
        example = select_example(batch, index)
        first = sum(batch.frames_per_example[:index])
        own = batch.frame_tokens[first : first + sum(example.frames_per_medium)]
        if example.frames is not None:
            example = replace(example, frames=example.frames[:, :, : max(own)], frame_tokens=own)
        losses.append(float(model(example).total.detach()))
    return losses


@pytest.mark.parametrize(("stage", "layers"), [(1, 0), (2, 0), (2, 2)])
def test_padding_is_never_read(stage: Stage, layers: int) -> None:
    model = reducing_model(ReducerConfig(name="all"), stage, layers)
    clean, dirty = model(ragged_batch()), model(ragged_batch(padding=50.0))
    torch.testing.assert_close(dirty.example_totals, clean.example_totals, rtol=0, atol=1e-5)
    assert [float(total) for total in clean.example_totals] == pytest.approx(
        cut_losses(model, ragged_batch(3.0)), rel=1e-4
    )
    dirty.total.backward()
    assert all(
        bool(torch.isfinite(weight.grad).all()) for weight in model.parameters() if weight.grad is not None
    )


def test_tokens_of_a_single_frame_are_what_all_patches_of_it_would_be() -> None:
    """Without padding, a reduced frame is a view of so many patches."""
    model = reducing_model(ReducerConfig(name="all"))
    batch = tiny_batch([TALK[0]])
    same = replace(batch, frame_tokens=(PATCHES,))
    assert float(model(same).total.detach()) == pytest.approx(float(model(batch).total.detach()), rel=1e-6)
    fewer = replace(batch, frames=batch.frames[:, :, :3])
    ragged = replace(batch, frame_tokens=(3,))
    assert float(model(ragged).total.detach()) == pytest.approx(float(model(fewer).total.detach()), rel=1e-5)


def test_chunks_of_ragged_frames_change_no_number() -> None:
    whole = reducing_model(ReducerConfig(name="all"), layers=2)
    chunked = reducing_model(ReducerConfig(name="all"), layers=2, frames_per_chunk=1, checkpoint=True)
    expected, found = whole(ragged_batch()), chunked(ragged_batch())
    torch.testing.assert_close(found.example_totals, expected.example_totals, rtol=1e-5, atol=1e-5)
    for one in (expected, found):
        one.total.backward()
    for (name, mine), theirs in zip(chunked.named_parameters(), whole.parameters(), strict=True):
        if theirs.grad is not None:
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize(("stage", "views"), [(1, 1), (2, 1), (2, 5)])
def test_average_in_the_model_is_average_before_it(stage: Stage, views: int) -> None:
    pooled = reducing_model(ReducerConfig(name="average", tokens=1), stage, layers=0)
    plain = reducing_model(ReducerConfig(name="all"), stage, layers=0)
    batch = tiny_batch(TALK, views=views)
    order = batch.frames.mean(dim=2, keepdim=True)
    averaged = replace(batch, frames=order.transpose(1, 2))
    torch.testing.assert_close(
        pooled(batch).example_totals, plain(averaged).example_totals, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("name", ["qformer", "perceiver", "average", "spatial", "sequential"])
@pytest.mark.parametrize("layers", [0, 1])
def test_baselines_train_as_peers_of_the_compressor(name: str, layers: int) -> None:
    settings = {"layers": 2} if name in ("qformer", "perceiver") else {}
    config = ReducerConfig.model_validate({"name": name, "tokens": 1} | settings)
    model = reducing_model(config, layers=layers)
    loss = model(tiny_batch(TALK))
    loss.total.backward()
    silent = [
        key
        for key, weight in model.named_parameters()
        if weight.requires_grad and (weight.grad is None or not bool(weight.grad.abs().sum()))
    ]
    assert silent == []
    (alone,) = [float(total) for total in model(select_example(tiny_batch(TALK), 0)).example_totals]
    assert alone == pytest.approx(float(loss.example_totals[0]), rel=1e-4)


def test_what_is_reduced_is_not_reduced_again() -> None:
    for name in ("query", "average"):
        with pytest.raises(MismatchError, match="reducer: all"):
            reducing_model(ReducerConfig(name=name))(ragged_batch())


def test_patches_are_refused_where_a_reader_should_have_reduced_them() -> None:
    for name in ("prumerge", "prumerge_plus", "tome"):
        with pytest.raises(MismatchError, match="reduce them while they are read"):
            reducing_model(ReducerConfig(name=name))(tiny_batch(TALK))
    assert float(reducing_model(ReducerConfig(name="prumerge"))(ragged_batch()).example_totals.sum()) > 0


def test_counts_must_fit_the_frames() -> None:
    batch = tiny_batch(TALK)
    with pytest.raises(MismatchError, match="4 frames come with 2 counts"):
        replace(batch, frame_tokens=(1, 2))
    with pytest.raises(MismatchError, match="as long as the longest"):
        replace(batch, frame_tokens=(1, 2, PATCHES + 1, 1))
