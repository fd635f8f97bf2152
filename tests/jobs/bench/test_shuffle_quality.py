"""Measures of shuffling: what they are by hand, and that bad orders are told from good ones."""

from statistics import correlation, fmean

import numpy as np
import pytest

from jobs.bench.order_manifest import make_config, make_table
from jobs.bench.shuffle_quality import (
    PERMUTATION,
    PICTURES,
    make_items,
    measure_orders,
    measure_shuffle,
    permute,
)

NUM_EXAMPLES = 40_000
BATCH = 128


@pytest.fixture(scope="module")
def table():
    return make_table(NUM_EXAMPLES)


@pytest.fixture(scope="module")
def pictures(table):
    return np.flatnonzero(np.repeat(table.modalities, np.diff(table.starts)) == PICTURES)


def measure(rows, table):
    whole = rows[: len(rows) // BATCH * BATCH].reshape(-1, BATCH)
    return measure_shuffle([*whole], table.sources, table.lengths, make_items(table.starts))


def test_the_measures_are_what_they_are_by_hand():
    random = np.random.default_rng(3)
    sources = random.integers(0, 3, 60).astype(np.uint8)
    lengths = random.integers(1, 9, 60).astype(np.uint32)
    items = random.integers(0, 40, 60)
    batches = np.split(random.permutation(60), [7, 20, 31, 45])
    found = measure_shuffle(batches, sources, lengths, items)
    ratios = []
    for batch in batches:
        for source in range(3):
            share = np.count_nonzero(sources == source) / 60
            number = np.count_nonzero(sources[batch] == source)
            ratios.append((number - len(batch) * share) ** 2 / (len(batch) * share * (1 - share)))
    assert found.dispersion == pytest.approx(fmean(ratios))
    siblings = [
        any(items[one] == items[other] and one != other for other in batch)
        for batch in batches
        for one in batch
    ]
    assert found.siblings == pytest.approx(fmean(siblings))
    assert 0 < fmean(siblings) < 1


def test_the_lag_is_the_correlation_with_the_next_batch(table, pictures):
    rising = pictures[np.argsort(table.lengths[pictures], kind="stable")]
    wobbling = np.concatenate([rising[0::2], rising[1::2]])
    whole = wobbling[: len(wobbling) // BATCH * BATCH].reshape(-1, BATCH)
    means = [float(table.lengths[rows].mean()) for rows in whole]
    assert measure(wobbling, table).lag_length == pytest.approx(correlation(means[:-1], means[1:]), abs=0.05)


def test_a_true_permutation_is_no_worse_than_chance(table, pictures):
    steps = permute(table, make_config("count"))
    rows = np.concatenate([unit.rows for units in steps for unit in units])
    assert len(set(rows.tolist())) == len(rows) == len(pictures) // BATCH * BATCH
    found = measure(rows, table)
    assert found.dispersion == pytest.approx(1, abs=0.1)
    assert found.siblings < 0.01
    assert abs(found.lag_source) < 0.15
    assert abs(found.lag_length) < 0.15


def test_bad_orders_are_told_apart(table, pictures):
    as_stored = measure(pictures, table)
    assert as_stored.siblings > 0.6
    by_source = measure(pictures[np.argsort(table.sources[pictures], kind="stable")], table)
    assert by_source.dispersion > 50
    assert by_source.lag_source > 0.9
    by_length = measure(pictures[np.argsort(table.lengths[pictures], kind="stable")], table)
    assert by_length.lag_length > 0.8
    assert by_length.dispersion > 5


def test_the_orders_of_the_stream_are_held_against_a_permutation():
    found = measure_orders(NUM_EXAMPLES)
    permutation = found.pop(PERMUTATION)
    assert set(found) == {"count", "alike", "cell", "pack"}
    for measures in found.values():
        assert abs(measures.lag_source) < 0.15
        assert abs(measures.lag_length) < 0.15
        assert measures.siblings < 0.02
        assert measures.padding < 0.01 < permutation.padding
    dispersions = [found[name].dispersion for name in ("pack", "count", "cell", "alike")]
    assert permutation.dispersion < dispersions[1]
    assert dispersions[0] == pytest.approx(permutation.dispersion, abs=0.15)
    assert dispersions == sorted(dispersions)
