"""The blockwise rule against the paper's formulas, and stochastic rounding against its promises."""

import math

import pytest
import torch
from adafactor_reference import SlowAdafactor
from hypothesis import given
from hypothesis import strategies as st

from pipelines.train.adafactor import Adafactor
from pipelines.train.rounding import round_stochastically, seed_generator, seed_of

CPU = torch.device("cpu")


@pytest.mark.parametrize("shape", [(150, 130), (130, 200), (7, 300), (40,), (6, 5, 4)])
@pytest.mark.parametrize("block_elements", [1, 1000, 2**24])
def test_it_is_the_papers(shape: tuple[int, ...], block_elements: int) -> None:
    generator = torch.Generator().manual_seed(0)
    rule = Adafactor(weight_decay=0.1, block_elements=block_elements)
    weight = torch.randn(shape, generator=generator)
    factored = len(shape) == 2 and min(shape) >= 128
    slow = SlowAdafactor(weight.double(), factored, weight_decay=0.1)
    state = rule.make_state(weight)
    assert set(state) == ({"row", "column"} if factored else {"square"})
    for step in range(1, 6):
        gradient = torch.randn(shape, generator=generator) * 10.0**-step
        rule.move("w", weight, gradient, state, 0.03, step)
        slow.step(gradient, 0.03, step)
        torch.testing.assert_close(weight.double(), slow.weight, rtol=1e-5, atol=1e-6)
    for name, moment in slow.moments.items():
        torch.testing.assert_close(state[name].double(), moment, rtol=1e-5, atol=0)


def test_an_update_is_no_longer_than_the_rate() -> None:
    """A gradient that is suddenly large does not throw the weight away."""
    rule, weight = Adafactor(), torch.zeros(128, 128)
    state = rule.make_state(weight)
    for step, size in enumerate((1.0, 1.0, 1e6), start=1):
        before = weight.clone()
        gradient = torch.randn(128, 128, generator=torch.Generator().manual_seed(step)) * size
        rule.move("w", weight, gradient, state, 0.01, step)
        assert 0 < float((weight - before).square().mean().sqrt()) <= 0.01 * 1.0001


def test_a_gradient_of_zero_moves_nothing() -> None:
    rule, weight = Adafactor(), torch.ones(130, 130)
    rule.move("w", weight, torch.zeros(130, 130), rule.make_state(weight), 0.1, 1)
    assert torch.equal(weight, torch.ones(130, 130))


def test_small_updates_of_bfloat16_count_on_average() -> None:
    """Steps of 1e-5 on weights of 1, a four hundredth of a bfloat16's last bit: nearest would drop all."""
    weight = torch.ones(256, 256, dtype=torch.bfloat16)
    rule = Adafactor(seed=1)
    state = rule.make_state(weight)
    for step in range(1, 101):
        rule.move("w", weight, torch.ones(256, 256, dtype=torch.bfloat16), state, 1e-5, step)
    moved = 1.0 - float(weight.double().mean())
    assert moved == pytest.approx(1e-3, rel=0.05)
    assert (torch.ones(1, dtype=torch.bfloat16) - 1e-5).item() == 1.0


def test_rounding_takes_one_of_the_neighbors_and_is_unbiased() -> None:
    low, high = torch.tensor([1.0, -3.0]), torch.tensor([1.0078125, -3.015625])
    for share in (0.1, 0.5, 0.9):
        values = (low + (high - low) * share).repeat(100_000, 1)
        rounded = round_stochastically(values.clone(), seed_generator(CPU, 0, 0, str(share))).float()
        assert bool(((rounded == low) | (rounded == high)).all())
        went_up = (rounded == high).double().mean(dim=0)
        # Four standard deviations of 100,000 throws.
        assert went_up.tolist() == pytest.approx([share] * 2, abs=4 * math.sqrt(share * (1 - share) / 1e5))


@given(st.lists(st.floats(width=32), min_size=1, max_size=20), st.integers(0, 1000))
def test_rounding_any_number(values: list[float], seed: int) -> None:
    given_values = torch.tensor(values, dtype=torch.float32)
    rounded = round_stochastically(given_values.clone(), seed_generator(CPU, seed, 1, "w")).float()
    exact = given_values.bfloat16().float()
    is_exact = exact == given_values
    assert torch.equal(rounded[is_exact], given_values[is_exact])
    assert torch.equal(rounded.isnan(), given_values.isnan())
    finite = given_values.isfinite() & rounded.isfinite()
    step = torch.maximum(given_values.abs() * 2.0**-7, torch.tensor(2.0**-133))
    assert bool(((rounded - given_values).abs()[finite] < step[finite]).all())


def test_noise_is_a_function_of_seed_step_and_name() -> None:
    seeds = {seed_of(seed, step, name) for seed in (0, 1) for step in (0, 1) for name in ("a", "b")}
    assert len(seeds) == 8
    values = torch.rand(1000)
    first, again, other = (
        round_stochastically(values.clone(), seed_generator(CPU, 0, step, "w")) for step in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
