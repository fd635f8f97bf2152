"""The order against its slow twin, in sequence; exact counts; elastic ranks; resume at every cut."""

import hashlib
from itertools import zip_longest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from order_reference import plan_slowly

from pipelines.stream.hashing import hash_ids, make_key, mix_integer
from pipelines.stream.order import EpochPlan, ExampleTable, OrderConfig
from schemas.errors import ConfigError


def make_table(sizes: list[int], modalities: list[int], num_sources: int = 3, seed: int = 0) -> ExampleTable:
    random = np.random.default_rng(seed)
    count = sum(sizes)
    return ExampleTable(
        ids=random.integers(0, 2**64, count, dtype=np.uint64, endpoint=False),
        sources=random.integers(0, num_sources, count).astype(np.uint8),
        lengths=random.integers(5, 40, count).astype(np.uint32),
        starts=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        modalities=np.array(modalities, dtype=np.uint8),
    )


def make_config(**changes) -> OrderConfig:
    values = {
        "seed": 7,
        "micro_batch": 4,
        "units_per_step": 3,
        "shards_per_block": 3,
        "weights": (1.0, 1.0, 1.0),
    }
    return OrderConfig(**{**values, **changes})


TABLE = make_table([30, 0, 17, 41, 9, 26, 3, 33, 12, 20], [0, 0, 0, 0, 1, 1, 2, 0, 1, 3])
MIXED = make_config(weights=(1.0, 0.5, 0.3))


def rows_of(plan: EpochPlan, first: int = 0) -> list[list[list[int]]]:
    return [[unit.rows.tolist() for unit in plan.step_units(step)] for step in range(first, plan.num_steps)]


def flatten(steps: list[list[list[int]]]) -> list[int]:
    return [row for units in steps for rows in units for row in rows]


shards = st.lists(st.tuples(st.integers(0, 25), st.integers(0, 3)), min_size=1, max_size=12)
configs = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**63),
        "micro_batch": st.integers(1, 6),
        "units_per_step": st.integers(1, 7),
        "shards_per_block": st.integers(1, 5),
        "weights": st.sampled_from([(1.0, 1.0, 1.0), (1.0, 0.5, 0.3), (0.25, 1.0, 0.0)]),
    }
)


@settings(max_examples=150, deadline=None)
@given(shards, configs, st.integers(0, 5))
def test_the_plan_agrees_with_the_slow_twin(shards: list[tuple[int, int]], changes: dict, epoch: int) -> None:
    table = make_table([size for size, _ in shards], [modality for _, modality in shards])
    config = make_config(**changes)
    assert rows_of(EpochPlan(table, config, epoch)) == plan_slowly(table, config, epoch)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=5), st.integers(0, 2**64 - 1))
def test_hashes_of_arrays_are_those_of_integers(ids: list[int], key: int) -> None:
    hashed = hash_ids(np.array(ids, dtype=np.uint64), key)
    assert hashed.tolist() == [mix_integer(value ^ key) for value in ids]


def test_splitmix_is_the_published_one() -> None:
    """The first outputs of the generator with seed 1234567, as published with its reference code."""
    increment = 0x9E3779B97F4A7C15
    found = [mix_integer(1234567 + index * increment & (2**64 - 1)) for index in range(3)]
    assert found == [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert make_key(1, 2) != make_key(2, 1)


def test_the_order_is_pinned() -> None:
    text = repr(rows_of(EpochPlan(TABLE, MIXED, 1)))
    assert (
        hashlib.sha256(text.encode()).hexdigest()
        == "402cd86e444d5678552d4659c4fb1ed37e7bb410d47820372ae9f1fbb6142580"
    )


@pytest.mark.parametrize("config", [make_config(), MIXED])
@pytest.mark.parametrize("epoch", [0, 3])
def test_resume_at_every_step(config: OrderConfig, epoch: int) -> None:
    whole = rows_of(EpochPlan(TABLE, config, epoch))
    assert len(whole) > 10
    for cut in range(len(whole) + 1):
        assert rows_of(EpochPlan(TABLE, config, epoch), cut) == whole[cut:]


def test_steps_in_any_order_are_the_same() -> None:
    plan = EpochPlan(TABLE, MIXED, 2)
    whole = rows_of(EpochPlan(TABLE, MIXED, 2))
    for step in np.random.default_rng(1).permutation(3 * plan.num_steps) % plan.num_steps:
        assert [unit.rows.tolist() for unit in plan.step_units(int(step))] == whole[step]


@pytest.mark.parametrize("world", [1, 2, 3, 4, 8])
def test_ranks_interleave_to_the_same_order(world: int) -> None:
    plan = EpochPlan(TABLE, MIXED, 0)
    for step in range(plan.num_steps):
        units = [unit.rows.tolist() for unit in plan.step_units(step)]
        ranks = [units[rank::world] for rank in range(world)]
        woven = [unit for row in zip_longest(*ranks) for unit in row if unit is not None]
        assert woven == units


@pytest.mark.parametrize("epoch", [0, 1, 9])
def test_an_epoch_visits_each_example_once(epoch: int) -> None:
    steps = rows_of(EpochPlan(TABLE, make_config(), epoch))
    assert sorted(flatten(steps)) == list(range(len(TABLE.ids)))
    assert flatten(steps) != flatten(rows_of(EpochPlan(TABLE, make_config(), epoch + 1)))


def test_weighted_counts_are_exact_after_ten_epochs() -> None:
    seen = np.zeros(len(TABLE.ids), dtype=int)
    for epoch in range(10):
        rows = flatten(rows_of(EpochPlan(TABLE, MIXED, epoch)))
        assert len(rows) == len(set(rows))
        seen[rows] += 1
    assert [set(seen[TABLE.sources == source]) for source in range(3)] == [{10}, {5}, {3}]


def test_units_hold_one_modality_and_like_lengths() -> None:
    plan = EpochPlan(TABLE, make_config(), 0)
    shard_of = np.repeat(np.arange(10), np.diff(TABLE.starts))
    num_short = 0
    for step in range(plan.num_steps):
        units = plan.step_units(step)
        assert len({int(TABLE.modalities[shard_of[row]]) for unit in units for row in unit.rows}) == 1
        assert all(1 <= len(unit.rows) <= 4 for unit in units)
        assert [unit.cost for unit in units] == sorted((unit.cost for unit in units), reverse=True)
        num_short += len(units) < 3
    assert num_short <= 4


def test_a_block_opens_few_shards() -> None:
    """Twelve shards of one modality in blocks of three: a step touches one block, or two at a border."""
    table = make_table([40] * 12, [0] * 12)
    plan = EpochPlan(table, make_config(units_per_step=2), 0)
    opened = [
        {int(row) // 40 for unit in plan.step_units(step) for row in unit.rows}
        for step in range(plan.num_steps)
    ]
    assert max(len(shards) for shards in opened) <= 6
    assert len(set.union(*opened[: plan.num_steps // 4])) == 3


def test_weights_outside_the_unit_interval_are_refused() -> None:
    with pytest.raises(ConfigError, match="mixture weights"):
        make_config(weights=(2.0, 1.0))
    with pytest.raises(ConfigError, match="at least 1"):
        make_config(micro_batch=0)
