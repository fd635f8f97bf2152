"""Selections of rows, against the plainest way to say them."""

import hashlib
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.ingest.take import choose_rows, rank_row

rows_of_bytes = st.lists(st.binary(max_size=2), max_size=30)


def chosen(take, rows):
    ranks = np.array([rank_row(row) for row in rows], dtype=np.uint64)
    taken = list(choose_rows(take, len(rows), ranks))
    assert taken == sorted(set(taken))
    return taken


def reference(take, rows):
    everything = list(range(len(rows)))
    if take == "all":
        return everything
    how, amount = take.split(":")
    share = Fraction(int(amount.rstrip("%")), 100) * len(rows)
    number = math.ceil(share) if amount.endswith("%") else int(amount)
    if how == "random":
        everything.sort(key=lambda index: (hashlib.sha256(rows[index]).digest(), index))
    if how == "last":
        return everything[len(rows) - number :] if number < len(rows) else everything
    return sorted(everything[:number])


@given(
    rows=rows_of_bytes,
    how=st.sampled_from(["first", "last", "random"]),
    amount=st.integers(0, 40) | st.just(10**30),
    unit=st.sampled_from(["", "%"]),
)
def test_selections_are_what_they_say(rows, how, amount, unit):
    take = f"{how}:{amount}{unit}"
    assert chosen(take, rows) == reference(take, rows)


def test_the_published_traps_are_no_traps():
    rows = [bytes([n]) for n in range(10)]
    assert chosen("last:0", rows) == []
    assert chosen("first:1%", rows) == [0]
    assert chosen("random:999", rows) == chosen("all", rows) == list(range(10))


def test_a_share_is_rounded_up_exactly():
    assert len(choose_rows("first:7%", 10**18 + 1)) == 7 * 10**16 + 1
    assert len(choose_rows("first:29%", 100)) == 29


@given(rows=rows_of_bytes, amount=st.integers(0, 29))
def test_more_at_random_is_a_superset(rows, amount):
    assert set(chosen(f"random:{amount}", rows)) <= set(chosen(f"random:{amount + 1}", rows))


@given(rows=st.lists(st.binary(max_size=3), unique=True, max_size=20), amount=st.integers(0, 20))
def test_a_random_choice_does_not_depend_on_the_order_of_the_file(rows, amount):
    def picked(order):
        return {order[index] for index in chosen(f"random:{amount}", order)}

    assert picked(rows) == picked(rows[::-1])


@given(ranks=st.lists(st.sampled_from([0, 1, 2, 2**63, 2**64 - 1]), max_size=20), amount=st.integers(0, 20))
def test_rows_of_one_rank_are_taken_in_order(ranks, amount):
    taken = choose_rows(f"random:{amount}", len(ranks), np.array(ranks, dtype=np.uint64))
    by_rank = sorted(range(len(ranks)), key=lambda index: (ranks[index], index))
    assert list(taken) == sorted(by_rank[:amount])


def test_random_needs_ranks():
    with pytest.raises(ValueError, match="rank"):
        choose_rows("random:1", 3)
