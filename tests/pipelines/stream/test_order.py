"""The order against its slow twin, in sequence; exact counts; resume at every cut."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from order_reference import plan_slowly, slow_classes
from order_tables import (
    ALL_MIX,
    CELL,
    COUNT,
    EQUAL,
    PACK,
    RULES,
    TABLE,
    WEIGHTED,
    flatten,
    make_config,
    make_table,
    plan,
    rows_of,
)

from pipelines.stream.hashing import hash_ids, make_key, mix_integer
from pipelines.stream.order import Order, OrderConfig
from pipelines.stream.units import UnitRule
from schemas.errors import ConfigError

MIXED = make_config(weights=WEIGHTED)
EVERY = [make_config(unit=rule, weights=weights) for rule in RULES.values() for weights in (EQUAL, WEIGHTED)]

shards = st.lists(st.tuples(st.integers(0, 25), st.integers(0, 3)), min_size=1, max_size=12)
rules = st.one_of(
    st.builds(UnitRule, kind=st.just("count"), max_examples=st.integers(1, 6)),
    st.builds(UnitRule, kind=st.sampled_from(["cell", "pack"]), max_tokens=st.integers(39, 200)),
)
configs = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**63),
        "unit": rules,
        "units_per_step": st.integers(1, 7),
        "shards_per_block": st.integers(1, 5),
        "weights": st.sampled_from([EQUAL, WEIGHTED, (0.25, 1.0, 0.0)]),
        "tail": st.sampled_from(["short", "drop"]),
        "mergeable": st.sampled_from([(), ALL_MIX, (frozenset({0, 1, 3}), frozenset({2, 3}))]),
    }
)


@settings(max_examples=40, deadline=None)
@given(shards, configs, st.integers(0, 5), st.booleans())
def test_the_plan_agrees_with_the_slow_twin(
    shards: list[tuple[int, int]], changes: dict, epoch: int, alike: bool
) -> None:
    table = make_table([size for size, _ in shards], [modality for _, modality in shards])
    config = make_config(**changes, alike=alike and changes["unit"].kind == "count")
    order = Order(table, config)
    assert order.classes.tolist() == slow_classes(table, order.config)
    assert rows_of(order.plan(epoch)) == plan_slowly(table, order.config, epoch)


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


@pytest.mark.parametrize(
    ("rule", "digest"),
    [
        (COUNT, "402cd86e444d5678552d4659c4fb1ed37e7bb410d47820372ae9f1fbb6142580"),
        (CELL, "e4f89f395d25f4ce12b3c7776b9a650b52b9b4f756fac4409c54a60d79425fef"),
        (PACK, "a10d965bb2ee3cd349e7ef8c76e4931c8bdeb066694f96fb1f922e6f31d714de"),
    ],
)
def test_the_order_is_pinned(rule: UnitRule, digest: str) -> None:
    text = repr(rows_of(plan(make_config(unit=rule, weights=WEIGHTED), epoch=1)))
    assert hashlib.sha256(text.encode()).hexdigest() == digest


@pytest.mark.parametrize("config", EVERY)
@pytest.mark.parametrize("epoch", [0, pytest.param(3, marks=pytest.mark.slow)])
def test_resume_at_every_step(config: OrderConfig, epoch: int) -> None:
    whole = rows_of(plan(config, epoch))
    assert len(whole) > 5
    for cut in range(len(whole) + 1):
        assert rows_of(plan(config, epoch), cut) == whole[cut:]


@pytest.mark.parametrize("config", EVERY)
def test_steps_in_any_order_are_the_same(config: OrderConfig) -> None:
    found = plan(config, 2)
    whole = rows_of(plan(config, 2))
    for step in np.random.default_rng(1).permutation(3 * found.num_steps) % found.num_steps:
        assert [unit.rows.tolist() for unit in found.step_units(int(step))] == whole[step]


@pytest.mark.parametrize("rule", RULES.values())
@pytest.mark.parametrize("epoch", [0, 1, 9])
def test_an_epoch_visits_each_example_once(rule: UnitRule, epoch: int) -> None:
    config = make_config(unit=rule)
    steps = rows_of(plan(config, epoch))
    assert sorted(flatten(steps)) == list(range(len(TABLE.ids)))
    assert flatten(steps) != flatten(rows_of(plan(config, epoch + 1)))


@pytest.mark.parametrize("rule", RULES.values())
def test_weighted_counts_are_exact_after_ten_epochs(rule: UnitRule) -> None:
    seen = np.zeros(len(TABLE.ids), dtype=int)
    for epoch in range(10):
        rows = flatten(rows_of(plan(make_config(unit=rule, weights=WEIGHTED), epoch)))
        assert len(rows) == len(set(rows))
        seen[rows] += 1
    assert [set(seen[TABLE.sources == source]) for source in range(3)] == [{10}, {5}, {3}]


@pytest.mark.parametrize("rule", RULES.values())
def test_a_dropped_tail_loses_less_than_a_step_of_each_class(rule: UnitRule) -> None:
    short, dropped = (plan(make_config(unit=rule, tail=tail)) for tail in ("short", "drop"))
    kept = rows_of(dropped)
    assert all(len(units) >= 3 for units in kept)
    assert short.num_steps - 4 <= dropped.num_steps < short.num_steps
    whole = rows_of(short)
    assert [units for units in whole if units in kept] == kept
    lost = set(flatten(whole)) - set(flatten(kept))
    assert 0 < len(lost) == len(flatten(whole)) - len(flatten(kept))


@pytest.mark.parametrize("config", EVERY)
def test_units_keep_to_their_class_and_budget(config: OrderConfig) -> None:
    found = plan(config)
    shard_of = np.repeat(np.arange(10), np.diff(TABLE.starts))
    num_short = 0
    for step in range(found.num_steps):
        units = found.step_units(step)
        assert len({int(TABLE.modalities[shard_of[row]]) for unit in units for row in unit.rows}) == 1
        for unit in units:
            lengths = TABLE.lengths[unit.rows].tolist()
            costs = {"count": 4 * max(lengths), "cell": 100, "pack": 100}
            padded = sum(lengths) if config.unit.kind == "pack" else len(lengths) * max(lengths)
            assert unit.cost == padded <= costs[config.unit.kind]
        assert [unit.cost for unit in units] == sorted((unit.cost for unit in units), reverse=True)
        num_short += len(units) < 3
    assert num_short <= 4


def test_surplus_units_ride_along_and_lose_nothing() -> None:
    """Lengths that fill badly, planned as if they filled well."""
    table = make_table([60] * 6, [0] * 6)
    table = replace(table, lengths=np.full(360, 60, dtype=np.uint32))
    order = Order(table, make_config(unit=PACK))
    assert order.config.unit.fill == 594
    order.config = replace(order.config, unit=replace(PACK, fill=950))
    found = order.plan(0)
    steps = rows_of(found)
    assert steps == plan_slowly(table, order.config, 0)
    assert sorted(flatten(steps)) == list(range(360))
    assert max(map(len, steps)) > 3
    assert found.num_steps == -(-(2 * -(-180 * 60 // 95)) // 3)


def test_rare_classes_join_the_largest_that_they_may_mix_with() -> None:
    """Modality 0 has 121 examples, 1 has 47, 2 has 3, 3 has 20; a step of every block takes 36 of them."""

    def classes(*sets: frozenset[int]) -> dict[int, int]:
        found = Order(TABLE, make_config(mergeable=sets)).classes
        return dict(zip(TABLE.modalities.tolist(), found.tolist(), strict=True))

    assert classes() == {0: 0, 1: 1, 2: 2, 3: 3}
    assert classes(frozenset({0, 1, 2, 3})) == {0: 0, 1: 1, 2: 0, 3: 0}
    assert classes(frozenset({0, 1, 3}), frozenset({2, 3})) == {0: 0, 1: 1, 2: 3, 3: 3}


def test_like_units_meet_in_a_step() -> None:
    table = make_table([60] * 12, [0] * 12)
    spans = {}
    for alike in (False, True):
        found = plan(make_config(alike=alike), table=table)
        costs = [[unit.cost for unit in found.step_units(step)] for step in range(found.num_steps)]
        assert sorted(flatten(rows_of(found))) == list(range(720))
        spans[alike] = np.mean([max(each) - min(each) for each in costs if len(each) == 3])
    assert spans[True] < spans[False] / 5


def test_a_block_opens_few_shards() -> None:
    """Twelve shards of one modality in blocks of three: a step touches one block, or two at a border."""
    table = make_table([40] * 12, [0] * 12)
    found = plan(make_config(units_per_step=2), table=table)
    opened = [
        {int(row) // 40 for unit in found.step_units(step) for row in unit.rows}
        for step in range(found.num_steps)
    ]
    assert max(len(shards) for shards in opened) <= 6
    assert len(set.union(*opened[: found.num_steps // 4])) == 3


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"weights": (2.0, 1.0)}, "mixture weights"),
        ({"units_per_step": 0}, "at least 1"),
        ({"unit": CELL, "alike": True}, "`alike`"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        make_config(**changes)
    with pytest.raises(ConfigError, match="no unit"):
        UnitRule(max_examples=0)
