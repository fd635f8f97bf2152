"""What the order needs of every example, and sums over it by shard.

Costs 13 bytes an example. Sums over all examples are taken once; where a source has a weight below 1 an
epoch takes its own, in one scan by parts, so that nothing grows with the number of examples.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Int64, UInt8, UInt32, UInt64

_ROWS_PER_PART: Final = 1 << 18


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleTable:
    """What the order needs of every example, shard by shard: shard s is rows `starts[s]:starts[s + 1]`."""

    ids: UInt64[np.ndarray, " examples"]
    """First 16 hex digits of the example ids."""
    sources: UInt8[np.ndarray, " examples"]
    lengths: UInt32[np.ndarray, " examples"]
    """Tokens of the sequence that the language model sees."""
    starts: Int64[np.ndarray, " shards_and_end"]
    modalities: UInt8[np.ndarray, " shards"]
    """A shard holds one modality."""

    @property
    def num_shards(self) -> int:
        """Shards, empty ones among them."""
        return len(self.modalities)


@dataclass(frozen=True, slots=True)
class ShardSums:
    """Examples of each shard, and the tokens of all of them."""

    examples: Int64[np.ndarray, " shards"]
    tokens: Int64[np.ndarray, " shards"]


def sum_shards(
    table: ExampleTable, is_taken: Callable[[slice], Bool[np.ndarray, " rows"]] | None = None
) -> ShardSums:
    """Sums over all examples, or over those that are taken."""
    sums = ShardSums(np.zeros(table.num_shards, np.int64), np.zeros(table.num_shards, np.int64))
    for shards in _cut_parts(table.starts):
        starts = table.starts[shards.start : shards.stop + 1]
        rows = slice(int(starts[0]), int(starts[-1]))
        lengths = table.lengths[rows].astype(np.int64)
        taken = np.ones(len(lengths), np.int64)
        if is_taken is not None:
            taken = is_taken(rows).astype(np.int64)
            lengths *= taken
        sums.examples[shards] = _sum_between(taken, starts - rows.start)
        sums.tokens[shards] = _sum_between(lengths, starts - rows.start)
    return sums


def _cut_parts(starts: Int64[np.ndarray, " shards_and_end"]) -> Iterator[slice]:
    """Runs of whole shards, of about as many rows."""
    first = 0
    while first < len(starts) - 1:
        reached = int(np.searchsorted(starts, int(starts[first]) + _ROWS_PER_PART, side="right")) - 1
        last = min(max(reached, first + 1), len(starts) - 1)
        yield slice(first, last)
        first = last


def _sum_between(
    values: Int64[np.ndarray, " rows"], starts: Int64[np.ndarray, " shards_and_end"]
) -> Int64[np.ndarray, " shards"]:
    """Sums between starts; empty stretches sum to 0."""
    sums = np.zeros(len(values) + 1, dtype=np.int64)
    sums[1:] = values.cumsum()
    return np.diff(sums[starts])
