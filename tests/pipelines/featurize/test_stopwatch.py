"""Who waits for whom, by a clock that moves only when a test says so."""

import numpy as np
import pytest
import torch

from pipelines.featurize.encoding import Stopwatch
from schemas.events import EncoderUsed

VIEWS = np.zeros((1, 2, 2, 3), np.uint8)


class Clock:
    """Stands until somebody passes time."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s

    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds


def test_waiting_working_and_the_rest_are_told_apart() -> None:
    """Three views come after 3, 1 and 0 s, the end after 2; each takes 4 s of work, and 1 s of the writer."""
    clock = Clock()
    stopwatch = Stopwatch(torch.device("cpu"), clock)

    def decode():
        for seconds in (3, 1, 0):
            clock.pass_time(seconds)
            yield seconds
        clock.pass_time(2)

    def encode(views: np.ndarray) -> int:
        clock.pass_time(4)
        return len(views)

    work = stopwatch.time_work(encode)
    for _ in stopwatch.time_waits(decode()):
        assert work(VIEWS) == 1
        clock.pass_time(1)
    stopwatch.decoders_busy_s += 5.5
    assert stopwatch.read(num_decoders=2) == EncoderUsed(
        stage="featurize", seconds=21.0, busy_s=12.0, waited_s=6.0, num_decoders=2, decoders_busy_s=5.5
    )


def test_a_wait_that_ends_in_an_error_counts() -> None:
    clock = Clock()
    stopwatch = Stopwatch(torch.device("cpu"), clock)

    def decode():
        clock.pass_time(2)
        raise ValueError("broken")
        yield

    with pytest.raises(ValueError, match="broken"):
        next(stopwatch.time_waits(decode()))
    used = stopwatch.read(1)
    assert (used.seconds, used.waited_s, used.busy_s) == (2.0, 2.0, 0.0)
