"""A pool of decoders hands out what a plain loop gives, in order, and holds no more than it may."""

import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from decode_samples import POLICY, make_picture
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.render import RenderedMedium, render_medium
from pipelines.decode.isolated import DEFAULT_LIMITS, IsolatedDecoder
from pipelines.decode.pool import DecoderPool
from schemas.errors import RejectCode, SampleError, WorkError
from schemas.record import MediumKind

DEADLINE_S = 60


@pytest.fixture(scope="module")
def pool() -> Iterator[DecoderPool]:
    opened = DecoderPool(partial(IsolatedDecoder, POLICY), 3)
    yield opened
    opened.close()


def render_or_reject(decoder: IsolatedDecoder, data: bytes) -> RenderedMedium | RejectCode:
    try:
        return decoder.render(data, MediumKind.IMAGE)
    except SampleError as error:
        return error.code


def count_views(rendered: RenderedMedium | RejectCode) -> int:
    return len(rendered.views) if isinstance(rendered, RenderedMedium) else 0


def test_results_are_those_of_a_plain_loop(pool: DecoderPool) -> None:
    files = [make_picture(seed=seed) if seed % 4 else b"no picture" for seed in range(1, 14)]
    results = list(pool.run(render_or_reject, files, count_views, max_held=4))
    assert len(results) == len(files)
    for data, result in zip(files, results, strict=True):
        if data == b"no picture":
            assert isinstance(result, RejectCode)
        else:
            assert isinstance(result, RenderedMedium)
            np.testing.assert_array_equal(result.views, render_medium(data, MediumKind.IMAGE, POLICY).views)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=25),
    st.integers(1, 8),
    st.booleans(),
)
def test_order_and_limits_hold_whoever_is_slow(
    pool: DecoderPool, jobs: list[tuple[int, int]], max_held: int, reader_is_slow: bool
) -> None:
    lock, held, running, most_held, most_running = threading.Lock(), 0, 0, 0, 0

    def work(_: IsolatedDecoder, job: tuple[int, int]) -> tuple[int, int]:
        nonlocal held, running, most_held, most_running
        with lock:
            running += 1
            most_running = max(most_running, running)
        time.sleep(job[0] / 1000)
        with lock:
            running -= 1
            held += job[1]
            most_held = max(most_held, held)
        return job

    line = pool.run(work, jobs, lambda job: job[1], max_held)
    results: list[tuple[int, int]] = []
    for job in line:
        with lock:
            held -= job[1]
        results.append(job)
        time.sleep(0.001 * reader_is_slow)
    assert results == jobs
    largest = max((job[1] for job in jobs), default=0)
    assert most_running <= pool.num_decoders
    # The reader's own count runs a result behind the line's.
    assert most_held < max_held + (pool.num_decoders + 1) * largest + 1
    assert line.busy_s >= sum(job[0] for job in jobs) / 1000


def test_work_is_done_side_by_side(pool: DecoderPool) -> None:
    together = threading.Barrier(pool.num_decoders, timeout=DEADLINE_S)
    line = pool.run(lambda _, number: (together.wait(), number)[1], range(6), lambda _: 1, max_held=100)
    assert list(line) == list(range(6))


def test_an_error_comes_up_in_its_place(pool: DecoderPool) -> None:
    def work(_: IsolatedDecoder, number: int) -> int:
        if number == 3:
            raise WorkError("three")
        return number

    line = pool.run(work, range(8), lambda _: 1, max_held=100)
    seen: list[int] = []
    with pytest.raises(WorkError, match="three"):
        seen.extend(line)
    assert seen == [0, 1, 2]
    line.close()
    results = pool.run(work, [0, 1, 2], lambda _: 1, max_held=1)
    assert list(results) == [0, 1, 2]


def test_no_input_gives_no_result(pool: DecoderPool) -> None:
    assert list(pool.run(render_or_reject, [], count_views, max_held=1)) == []


def test_a_closed_line_starts_nothing(pool: DecoderPool) -> None:
    started: list[int] = []

    def work(_: IsolatedDecoder, number: int) -> int:
        started.append(number)
        return number

    line = pool.run(work, range(100), lambda _: 1, max_held=2)
    assert next(iter(line)) == 0
    line.close()
    num_started = len(started)
    time.sleep(0.05)
    assert len(started) <= num_started + pool.num_decoders < 20


def test_closing_ends_what_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    pool = DecoderPool(partial(IsolatedDecoder, POLICY, module="faulty_child"), 2)
    line = pool.run(render_or_reject, [make_picture(), b"hang", b"hang"], count_views, max_held=100)
    results = iter(line)
    assert isinstance(next(results), RenderedMedium)
    line.close()
    started_s = time.monotonic()
    pool.close()
    assert time.monotonic() - started_s < DEFAULT_LIMITS.deadline_s / 2
    with pytest.raises(WorkError, match="stopped in the middle"):
        next(results)
    again = pool.run(render_or_reject, [make_picture()], count_views, max_held=1)
    assert [type(result) for result in again] == [RenderedMedium]
    pool.close()
