"""Every reducer without weights against its slow twin, and what all of them promise."""

from collections.abc import Generator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_views import random_view, random_weights
from reducer_references import prumerge, released_prumerge, tome
from torch.nn import functional

from operators.reducers import ReducedFrames, ViewFeatures, build_reducer, reduce_frames, reduce_view
from operators.reducers.focus import focus_view
from operators.reducers.interface import sum_weighted
from operators.reducers.places import factor_grid
from schemas.errors import ConfigError, MismatchError
from schemas.reducer import ReducerConfig

SIDE = 6
PATCHES = SIDE * SIDE
CONFIGS = {
    "all": ReducerConfig(name="all"),
    "average": ReducerConfig(name="average", tokens=4),
    "average-uneven": ReducerConfig(name="average", tokens=20),
    "sequential": ReducerConfig(name="sequential", tokens=5),
    "spatial": ReducerConfig(name="spatial", tokens=6),
    "tome": ReducerConfig(name="tome", tokens=7),
    "prumerge": ReducerConfig(name="prumerge", neighbors=5),
    "prumerge-off": ReducerConfig(name="prumerge", merge=False),
    "prumerge-plus": ReducerConfig(name="prumerge_plus", neighbors=5),
    "prumerge-plus-off": ReducerConfig(name="prumerge_plus", merge=False),
    "released": ReducerConfig(name="prumerge", variant="released", neighbors=5),
    "released-off": ReducerConfig(name="prumerge", variant="released", merge=False),
    "released-plus": ReducerConfig(name="prumerge_plus", variant="released", neighbors=5),
}
SUMS = {name for name in CONFIGS if name not in ("released", "released-plus")}
"""Those whose tokens are means."""
seeds = st.integers(0, 10**6)
few = settings(max_examples=25, deadline=None)


@contextmanager
def threads(number: int) -> Generator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def assert_equal(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found.double(), expected.double(), rtol=1e-5, atol=1e-5)


@few
@given(
    seed=seeds, neighbors=st.integers(1, 40), merges=st.booleans(), share=st.sampled_from([None, 0.25, 0.6])
)
def test_prumerge_equals_the_paper(seed: int, neighbors: int, merges: bool, share: float | None) -> None:
    view = random_view(seed)
    name = "prumerge" if share is None else "prumerge_plus"
    config = ReducerConfig(name=name, neighbors=neighbors, merge=merges, share=share or 0.25)
    expected = prumerge(view, neighbors, merges=merges, share=share)
    assert_equal(reduce_view(build_reducer(config), view), expected)


@few
@given(seed=seeds, samples=st.booleans())
def test_released_prumerge_equals_its_steps(seed: int, samples: bool) -> None:
    view = random_view(seed)
    name = "prumerge_plus" if samples else "prumerge"
    config = ReducerConfig(name=name, variant="released", neighbors=5)
    assert_equal(reduce_view(build_reducer(config), view), released_prumerge(view, 5, samples=samples))


@few
@given(seed=seeds, tokens=st.integers(1, PATCHES))
def test_tome_equals_the_paper(seed: int, tokens: int) -> None:
    view = random_view(seed)
    found = reduce_view(build_reducer(ReducerConfig(name="tome", tokens=tokens)), view)
    assert_equal(found, tome(view, tokens))


@pytest.mark.parametrize("tokens", [1, 4, 6, 9, 15, 16, 20, 30, 36])
def test_average_is_adaptive_pooling(tokens: int) -> None:
    view = random_view(tokens)
    grid = view.patches.T.reshape(1, -1, SIDE, SIDE)
    expected = functional.adaptive_avg_pool2d(grid, factor_grid(tokens, SIDE)).flatten(2)[0].T
    assert_equal(reduce_view(build_reducer(ReducerConfig(name="average", tokens=tokens)), view), expected)


def test_samples_are_where_they_should_be() -> None:
    places = torch.arange(PATCHES, dtype=torch.float32)[:, None]
    view = ViewFeatures(places)
    spatial = reduce_view(build_reducer(ReducerConfig(name="spatial", tokens=6)), view)
    assert spatial.flatten().tolist() == [7, 9, 11, 25, 27, 29]
    first = reduce_view(build_reducer(ReducerConfig(name="sequential", tokens=5)), view)
    assert first.flatten().tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(reduce_view(build_reducer(CONFIGS["all"]), view), places)


@pytest.mark.parametrize("name", CONFIGS)
@few
@given(seed=seeds)
def test_counts_are_within_bounds_and_weights_sum_to_one(name: str, seed: int) -> None:
    reducer, view = build_reducer(CONFIGS[name]), random_view(seed)
    weights = reducer.weigh(view)
    bounds = reducer.bound_tokens(PATCHES)
    assert bounds.most > 0
    assert bounds.fewest <= weights.shape[0] <= bounds.most
    assert bool((weights >= 0).all())
    sums = weights.sum(dim=1)
    if name in SUMS:
        torch.testing.assert_close(sums, torch.ones_like(sums), rtol=1e-5, atol=0)
    else:
        assert bool((sums[:-1] > 1).all()), "a kept patch counts fully, its neighbors add to it"


@pytest.mark.parametrize("name", ["prumerge", "prumerge-off", "released"])
def test_the_number_of_tokens_varies(name: str) -> None:
    counts = {build_reducer(CONFIGS[name]).weigh(random_view(seed)).shape[0] for seed in range(20)}
    assert len(counts) > 2


@pytest.mark.parametrize("name", CONFIGS)
def test_batch_mates_change_no_bit(name: str) -> None:
    reducer, width = build_reducer(CONFIGS[name]), 8
    generator = torch.Generator().manual_seed(1)
    frames = torch.randn(6, 2, PATCHES, width, generator=generator)
    class_rows = torch.randn(6, 2, width, generator=generator) * 3
    weights = random_weights(width)

    def reduce(order: list[int]) -> list[torch.Tensor]:
        found = reduce_frames(reducer, frames[order], class_rows[order], weights)
        assert found.tokens.shape[1] == max(found.counts)
        assert all(not tokens[count:].any() for tokens, count in zip(found.tokens, found.counts, strict=True))
        return [tokens[:count] for tokens, count in zip(found.tokens, found.counts, strict=True)]

    together = reduce([0, 1, 2, 3, 4, 5])
    for order in ([5, 3, 1, 0, 2, 4], [2, 2, 0], [4]):
        for place, tokens in zip(order, reduce(order), strict=True):
            assert torch.equal(tokens, together[place])
    assert len({tuple(tokens.flatten().tolist()) for tokens in together}) == 6


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_runs_and_threads_change_no_bit(name: str, num_threads: int) -> None:
    """A view of 24 x 24 patches, wide enough that torch divides its products among threads."""
    reducer, generator = build_reducer(CONFIGS[name]), torch.Generator().manual_seed(2)
    patches, class_row = torch.randn(576, 256, generator=generator), torch.randn(256, generator=generator)
    weights = random_weights(256)

    def reduce() -> torch.Tensor:
        return reduce_view(reducer, ViewFeatures(patches, focus_view(class_row, patches, weights)))

    with threads(num_threads):
        found = [reduce(), reduce()]
    with threads(4):
        expected = reduce()
    assert [tokens.numpy().tobytes() for tokens in found] == 2 * [expected.numpy().tobytes()]


@few
@given(seed=seeds, tokens=st.integers(1, 40), share=st.sampled_from([0.0, 0.05, 1.0]))
def test_sums_are_the_product_of_matrices(seed: int, tokens: int, share: float) -> None:
    """Of full rows, thin ones and empty ones; parts of the rows give the same bits."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(tokens, 100, generator=generator)
    weights *= torch.rand(tokens, 100, generator=generator) < share
    patches = torch.randn(100, 24, generator=generator)
    found = sum_weighted(weights, patches)
    assert_equal(found, weights.double() @ patches.double())
    assert torch.equal(torch.cat([sum_weighted(row[None], patches) for row in weights]), found)


def test_views_of_a_frame_follow_each_other() -> None:
    reducer, weights = build_reducer(CONFIGS["prumerge"]), random_weights(8)
    frames, class_rows = torch.randn(1, 5, PATCHES, 8), torch.randn(1, 5, 8)
    whole = reduce_frames(reducer, frames, class_rows, weights)
    parts = [
        reduce_frames(reducer, frames[:, [view]], class_rows[:, [view]], weights).tokens[0]
        for view in range(5)
    ]
    assert torch.equal(whole.tokens[0], torch.cat(parts))


def test_half_precision_is_reduced_in_full() -> None:
    view = random_view(3)
    reducer = build_reducer(CONFIGS["prumerge"])
    half = reduce_view(reducer, ViewFeatures(view.patches.half(), view.focus))
    expected = reduce_view(reducer, ViewFeatures(view.patches.half().float(), view.focus))
    assert half.dtype is torch.float16
    assert torch.equal(half, expected.half())


def test_attention_that_rounds_to_zero_still_gives_tokens() -> None:
    view = random_view(0)
    attention = torch.zeros(PATCHES)
    attention[4] = 1.0
    focus = view.focus.__class__(attention, attention, view.focus.keys, 2)
    for name in ("prumerge", "prumerge-plus"):
        weights = build_reducer(CONFIGS[name]).weigh(ViewFeatures(view.patches, focus))
        torch.testing.assert_close(weights.sum(dim=1), torch.ones(len(weights)))


def test_equal_attention_keeps_one_patch() -> None:
    view = random_view(0)
    flat = torch.full((PATCHES,), 0.01)
    focus = view.focus.__class__(flat, flat, view.focus.keys, 2)
    assert build_reducer(CONFIGS["prumerge"]).weigh(ViewFeatures(view.patches, focus)).shape[0] == 1
    released = build_reducer(CONFIGS["released"]).weigh(ViewFeatures(view.patches, focus))
    assert torch.equal(released, flat[None])


@pytest.mark.parametrize("name", ["prumerge", "prumerge-plus", "released", "tome"])
def test_a_view_without_focus_is_refused(name: str) -> None:
    with pytest.raises(MismatchError, match="class rows"):
        build_reducer(CONFIGS[name]).weigh(ViewFeatures(torch.zeros(PATCHES, 8)))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (ReducerConfig(name="tome", tokens=37), "lower `tokens`"),
        (ReducerConfig(name="sequential", tokens=37), "lower `tokens`"),
        (ReducerConfig(name="spatial", tokens=7), "no grid"),
        (ReducerConfig(name="average", tokens=11), "no grid"),
    ],
)
def test_what_does_not_fit_is_refused(config: ReducerConfig, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_reducer(config).bound_tokens(PATCHES)
    with pytest.raises(ConfigError, match=words):
        build_reducer(config).weigh(random_view(0))


@pytest.mark.parametrize("name", ["query", "qformer", "perceiver"])
def test_trained_reducers_cannot_stand_alone(name: str) -> None:
    with pytest.raises(ConfigError, match="trained with a model"):
        build_reducer(ReducerConfig(name=name))


def test_ranges_of_frames_keep_their_length() -> None:
    frames = ReducedFrames(torch.arange(12.0).reshape(3, 4, 1), (4, 1, 2))
    part = frames.select(1, 3)
    assert part.counts == (1, 2)
    assert torch.equal(part.tokens, frames.tokens[1:])
