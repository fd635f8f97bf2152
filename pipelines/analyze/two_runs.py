"""One training run twice, from the cache and with the encoder in the loop: losses, time and memory of both.

Both runs have written a line of metrics for every step. The first step is left out of times: it opens what
the others use. Memory is what each process took by itself, so the runs must be of two processes.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from pipelines.train.metrics import read_reports
from schemas.errors import MismatchError


@dataclass(frozen=True, slots=True)
class RunFigures:
    """What a run was like."""

    losses: tuple[float, ...]
    """Of every step."""
    step_s: float
    """Median of a step."""
    wait_s: float
    """Median of what a step waited for its examples."""
    memory_bytes: int
    """The most that the process took, or tensors on its GPU."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs of as many steps."""

    cached: RunFigures
    live: RunFigures

    @property
    def is_equal(self) -> bool:
        """Whether all losses are the same to the last bit."""
        return self.cached.losses == self.live.losses

    @property
    def largest_difference(self) -> float:
        """Of two losses of a step."""
        pairs = zip(self.cached.losses, self.live.losses, strict=True)
        return max(abs(cached - live) for cached, live in pairs)


def read_run(out: Path) -> RunFigures:
    """The figures of a run that lies below a folder."""
    reports = read_reports(out)
    timed = reports[1:] or reports
    return RunFigures(
        losses=tuple(report.loss for report in reports),
        step_s=median(report.step_s for report in timed),
        wait_s=median(report.data_wait_s for report in timed),
        memory_bytes=max((report.memory_bytes for report in reports), default=0),
    )


def compare_runs(cached: Path, live: Path) -> Comparison:
    """Two runs compared, by the folders that they lie in.

    Raises:
        MismatchError: they are not of as many steps, or a loss is not finite.
    """
    comparison = Comparison(read_run(cached), read_run(live))
    lengths = len(comparison.cached.losses), len(comparison.live.losses)
    if lengths[0] != lengths[1] or not math.isfinite(sum(comparison.cached.losses + comparison.live.losses)):
        raise MismatchError(f"{cached} and {live} hold {lengths[0]} and {lengths[1]} losses; run both again")
    return comparison
