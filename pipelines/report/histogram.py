"""Counts by range, file by file: what is held is one number a range."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True, slots=True)
class Bar:
    """One range of a distribution."""

    label: str
    count: int
    percent: float
    """Of all that was counted."""
    length: float
    """Of the longest bar, in percent."""


class Histogram:
    """Values from 0 up, counted by ranges that include their lower end; the last range is open."""

    def __init__(self, edges: Sequence[float]) -> None:
        """`edges` are the lower ends, ascending; the first is the least value there can be."""
        self._edges = np.asarray(edges, dtype=np.float64)
        self._counts = np.zeros(len(edges), dtype=np.int64)
        self._sum = 0.0

    def add(self, values: ArrayLike) -> None:
        """Count some values; what lies below the first edge counts as the first range."""
        found = np.asarray(values, dtype=np.float64)
        places = np.maximum(np.searchsorted(self._edges, found, side="right") - 1, 0)
        self._counts += np.bincount(places, minlength=len(self._counts))
        self._sum += float(found.sum())

    @property
    def num_values(self) -> int:
        """How many were counted."""
        return int(self._counts.sum())

    @property
    def mean(self) -> float:
        """Of all values; 0 where there are none."""
        return self._sum / self.num_values if self.num_values else 0.0

    def list_bars(self) -> list[Bar]:
        """The ranges from the first to the last that is not empty; none where nothing was counted."""
        if not self.num_values:
            return []
        filled = np.flatnonzero(self._counts)
        labels = [*(f"{_show(low)} to {_show(high)}" for low, high in pairwise(self._edges))]
        labels.append(f"{_show(self._edges[-1])} and more")
        return [
            Bar(
                labels[place],
                int(self._counts[place]),
                100 * int(self._counts[place]) / self.num_values,
                100 * int(self._counts[place]) / int(self._counts.max()),
            )
            for place in range(int(filled[0]), int(filled[-1]) + 1)
        ]


def _show(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.2f}"
