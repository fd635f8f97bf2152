"""Working ahead changes neither results nor errors, and is bounded."""

import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.featurize.ahead import run_ahead
from schemas.errors import WorkError

LIMIT_S = 60


@settings(deadline=None)
@given(st.lists(st.integers() | st.none(), max_size=20), st.integers(1, 4))
def test_results_are_the_same_in_order(values: list[int | None], max_waiting: int) -> None:
    with run_ahead(iter(values), max_waiting) as results:
        assert list(results) == values


def test_it_works_ahead_and_no_further() -> None:
    made: list[int] = []
    has_filled = threading.Event()

    def make() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            if number == 3:
                has_filled.set()
            yield number

    with run_ahead(make(), 3) as results:
        assert has_filled.wait(LIMIT_S)
        time.sleep(0.05)
        assert made == [0, 1, 2, 3]
        assert next(results) == 0
        assert next(results) == 1
    assert len(made) <= 7


def test_an_error_comes_after_the_results_before_it() -> None:
    def make() -> Iterator[int]:
        yield 1
        yield 2
        raise WorkError("three")

    seen: list[int] = []
    with run_ahead(make(), 1) as results, pytest.raises(WorkError, match="three"):
        seen.extend(results)
    assert seen == [1, 2]


def test_leaving_early_ends_the_thread() -> None:
    before = threading.active_count()
    with run_ahead(iter(range(1000)), 1) as results:
        assert next(results) == 0
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


def test_the_readers_error_is_the_readers() -> None:
    def read() -> None:
        with run_ahead(iter(range(1000)), 1) as results:
            next(results)
            raise WorkError("reader")

    with pytest.raises(WorkError, match="reader"):
        read()
