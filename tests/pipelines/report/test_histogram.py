"""Counts by range, against counting one by one."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.report.histogram import Histogram

EDGES = (0.0, 2.0, 5.0, 10.0)


@given(st.lists(st.lists(st.integers(0, 40))))
def test_counts_are_those_of_a_loop(files):
    histogram = Histogram(EDGES)
    for values in files:
        histogram.add(np.array(values, dtype=np.int64))
    values = [value for file in files for value in file]
    ranges = [*pairwise(EDGES), (EDGES[-1], 10**9)]
    expected = [sum(low <= value < high for value in values) for low, high in ranges]
    while expected and not expected[0]:
        expected.pop(0)
    while expected and not expected[-1]:
        expected.pop()
    assert [bar.count for bar in histogram.list_bars()] == expected
    assert histogram.num_values == len(values)
    assert histogram.mean == pytest.approx(sum(values) / len(values) if values else 0)


def test_bars_say_their_range_and_share():
    histogram = Histogram(EDGES)
    histogram.add([0, 1, 1, 4, 10, 2000])
    bars = histogram.list_bars()
    assert [bar.label for bar in bars] == ["0 to 2", "2 to 5", "5 to 10", "10 and more"]
    assert [bar.count for bar in bars] == [3, 1, 0, 2]
    assert [bar.percent for bar in bars] == pytest.approx([50, 100 / 6, 0, 100 / 3])
    assert [bar.length for bar in bars] == pytest.approx([100, 100 / 3, 0, 200 / 3])


def test_nothing_counted_draws_nothing():
    assert Histogram(EDGES).list_bars() == []
