"""How the examples of one block and class are cut into units: micro-batches that a rank takes whole.

    count   at most `max_examples` examples, adjacent in length
    cell    examples adjacent in length, number x longest at most `max_tokens`: padded to one rectangle
    pack    examples that share one sequence of at most `max_tokens`: nothing is padded

The number of units follows from arithmetic alone (`UnitRule.count_units`), so that steps are known before a
length is sorted. Cutting meets it: cells get the lowest budget that needs no more units, then the largest
units are halved until there are as many. Rows are packed by first fit in random order, which keeps sources
mixed; best fit from the longest down, which fills better and makes rows of one length, is taken only where
first fit needs too many. Units beyond the number are handed out as surplus: they ride along with others.

Examples longer than `max_tokens` have to be left out beforehand; one that is not makes a unit by itself.
Packing takes some 2 us an example, cells less.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Final, Literal

import numpy as np
from jaxtyping import Int64, UInt32

from schemas.errors import ConfigError

UnitKind = Literal["count", "cell", "pack"]
Rows = Int64[np.ndarray, " _"]
Lengths = Int64[np.ndarray, " _"]

PER_MILLE: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitRule:
    """What a unit is."""

    kind: UnitKind = "count"
    max_examples: int = 1
    """Of a unit by count."""
    max_tokens: int = 1
    """Of a cell, padded, or of a packed sequence."""
    fill: int = PER_MILLE
    """Thousandths of `max_tokens` that units are planned to hold; calibrated, see `calibrate_fill`."""

    def __post_init__(self) -> None:
        if min(self.max_examples, self.max_tokens, self.fill) < 1 or self.fill > PER_MILLE:
            raise ConfigError(f"no unit can be made by {self}")

    def count_units(
        self, examples: Int64[np.ndarray, "*blocks"], tokens: Int64[np.ndarray, "*blocks"]
    ) -> Int64[np.ndarray, "*blocks"]:
        """How many units so many examples of so many tokens make."""
        if self.kind == "count":
            return -(-examples // self.max_examples)
        return np.minimum(examples, -(-tokens * PER_MILLE // (self.fill * self.max_tokens)))


@dataclass(frozen=True, slots=True)
class Unit:
    """One micro-batch: rows of the table, the longest first where they are padded, and what it costs."""

    rows: Rows
    cost: int
    """Tokens, padding included."""


def cut_units(rows: Rows, lengths: UInt32[np.ndarray, " rows"], rule: UnitRule, count: int) -> list[Unit]:
    """At least `count` units of these rows, which are in random order; none of them is empty.

    Args:
        rows: no fewer than `count`.
        lengths: of each row.
        rule: what a unit is.
        count: what `rule.count_units` says.

    Returns:
        Units, those that ride along last; ordered by length but for packs.
    """
    if count == 0:
        return []
    if rule.kind == "count":
        order = np.argsort(lengths, kind="stable")
        parts: list[Rows] = np.array_split(order, count)
    elif rule.kind == "cell":
        parts = _cut_cells(lengths.astype(np.int64), rule.max_tokens, count)
    else:
        parts = _pack(lengths.astype(np.int64), rule.max_tokens, count)
    measure = _measure_packed if rule.kind == "pack" else _measure_padded
    return [Unit(rows[part], measure(lengths[part])) for part in parts]


def calibrate_fill(lengths: Sequence[Lengths], kind: UnitKind, max_tokens: int) -> int:
    """Thousandths of `max_tokens` that units of such examples can be counted on to hold.

    Args:
        lengths: of samples, one for each class; those of whole shards.
        kind: of units.
        max_tokens: of a unit.
    """
    if kind == "count":
        return PER_MILLE
    num_units = num_tokens = 0
    for sample in lengths:
        falling = -np.sort(-sample)
        if kind == "pack":
            num_units += len(_fit_best(falling.tolist(), max_tokens))
        else:
            num_units += len(_begin_cells(falling.tolist(), max_tokens))
        num_tokens += int(sample.sum())
    reached = num_tokens / (max_tokens * max(1, num_units))
    return max(1, int(PER_MILLE * min(_MOST_FILL[kind], _SURE_SHARE[kind] * reached)))


_MOST_FILL: Final = {"cell": 0.95, "pack": 0.99}
_SURE_SHARE: Final = {"cell": 0.97, "pack": 0.99}
"""Of what samples reach: a block's lengths are a little different."""


def _measure_padded(lengths: UInt32[np.ndarray, " rows"]) -> int:
    return len(lengths) * int(lengths.max())


def _measure_packed(lengths: UInt32[np.ndarray, " rows"]) -> int:
    return int(lengths.sum(dtype=np.int64))


def _cut_cells(lengths: Lengths, max_tokens: int, count: int) -> list[Rows]:
    order = np.argsort(-lengths, kind="stable")
    falling: list[int] = lengths[order].tolist()
    low, high = max(1, falling[0]), max_tokens
    while low < high:
        middle = (low + high) // 2
        if len(_begin_cells(falling, middle)) <= count:
            high = middle
        else:
            low = middle + 1
    begins = _begin_cells(falling, max(low, high))
    parts: list[Rows] = np.split(order, begins[1:])
    return _halve_largest(
        parts, count, lambda part: len(part) * int(lengths[part[0]]), lambda part: len(part) // 2
    )


def _begin_cells(falling: list[int], budget: int) -> list[int]:
    """Where cells begin, from the longest down, each as large as the budget allows."""
    begins: list[int] = []
    place = 0
    while place < len(falling):
        begins.append(place)
        place += max(1, budget // max(1, falling[place]))
    return begins


def _pack(lengths: Lengths, max_tokens: int, count: int) -> list[Rows]:
    bins = _fit_first(lengths.tolist(), max_tokens)
    if len(bins) > count:
        order = np.argsort(-lengths, kind="stable").tolist()
        fitted = _fit_best([int(lengths[place]) for place in order], max_tokens)
        bins = [[order[place] for place in places] for places in fitted]
    parts = [np.array(places, dtype=np.int64) for places in bins]

    def middle(part: Rows) -> int:
        reached: Lengths = np.cumsum(lengths[part])
        place = np.searchsorted(reached, int(reached[-1]) / 2)
        return min(max(1, int(place)), len(part) - 1)

    return _halve_largest(parts, count, lambda part: int(lengths[part].sum()), middle)


def _fit_first(lengths: list[int], capacity: int) -> list[list[int]]:
    """Each length into the first bin that has room; bins with less room than the shortest are closed."""
    bins: list[list[int]] = []
    room: list[int] = []
    is_open: list[int] = []
    shortest = min(lengths)
    for place, length in enumerate(lengths):
        for index, number in enumerate(is_open):
            if room[number] >= length:
                bins[number].append(place)
                room[number] -= length
                if room[number] < shortest:
                    del is_open[index]
                break
        else:
            bins.append([place])
            room.append(capacity - length)
            if room[-1] >= shortest:
                is_open.append(len(bins) - 1)
    return bins


def _fit_best(falling: list[int], capacity: int) -> list[list[int]]:
    """Each length, from the longest down, into the fullest bin that has room; of equal ones the first."""
    bins: list[list[int]] = []
    rooms: list[tuple[int, int]] = []
    for place, length in enumerate(falling):
        found = bisect_left(rooms, (length, -1))
        if found == len(rooms):
            bins.append([place])
            room, number = capacity - length, len(bins) - 1
        else:
            room, number = rooms.pop(found)
            bins[number].append(place)
            room -= length
        insort(rooms, (room, number))
    return bins


def _halve_largest(
    parts: list[Rows], count: int, measure: Callable[[Rows], int], middle: Callable[[Rows], int]
) -> list[Rows]:
    """Halve what costs most, and can be halved, until there are `count` parts; of equal ones the first."""
    parts = list(parts)
    waiting = [(-measure(part), number) for number, part in enumerate(parts) if len(part) > 1]
    heapify(waiting)
    while len(parts) < count:
        _, number = heappop(waiting)
        part, cut = parts[number], middle(parts[number])
        parts[number] = part[:cut]
        parts.append(part[cut:])
        for half in (number, len(parts) - 1):
            if len(parts[half]) > 1:
                heappush(waiting, (-measure(parts[half]), half))
    return parts
