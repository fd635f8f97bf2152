"""How well an order shuffles: what its batches look like beside those of a true permutation.

    dispersion   variance of a source's share in a batch, over the multinomial one: 1 for a true permutation
    siblings     share of examples with another example of their item in the same batch
    lag          correlation between one batch and the next, of the first source's share and the mean length

Orders are those of `order_manifest`, over an epoch, batches of pictures alone; items are made up, of 1.75
consecutive examples on average whose sources and lengths are unrelated. Started as a program with a number
of examples it says, as JSON, the table of `pipelines/stream/README.md`. Takes some 2 s a million examples
and order.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Final

import numpy as np
from jaxtyping import Float64, Int64, UInt8, UInt32

from jobs.bench.order_manifest import UNIT_TOKENS, make_config, make_table
from pipelines.stream.order import Order, OrderConfig
from pipelines.stream.table import ExampleTable
from pipelines.stream.units import Unit

NUM_EXAMPLES: Final = 1_000_000
ITEM_SIZES: Final = (1, 2, 3)
ITEM_SHARES: Final = (0.5, 0.25, 0.25)
PICTURES: Final = 0
"""The modality of most shards."""
PERMUTATION: Final = "permutation"

Rows = Int64[np.ndarray, " rows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShuffleQuality:
    """What a sequence of batches looks like."""

    dispersion: float
    siblings: float
    lag_source: float
    lag_length: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderMeasures(ShuffleQuality):
    """The same of an order, and what its units hold."""

    padding: float
    fill: float
    num_batches: int


def measure_shuffle(
    batches: Sequence[Rows],
    sources: UInt8[np.ndarray, " examples"],
    lengths: UInt32[np.ndarray, " examples"],
    items: Int64[np.ndarray, " examples"],
) -> ShuffleQuality:
    """Measure batches, which are places of examples, in their sequence."""
    counts = np.stack([np.bincount(sources[rows], minlength=int(sources.max()) + 1) for rows in batches])
    sizes = counts.sum(axis=1)
    with_siblings = sum(_count_siblings(items[rows]) for rows in batches)
    return ShuffleQuality(
        dispersion=_measure_dispersion(counts, sizes),
        siblings=with_siblings / int(sizes.sum()),
        lag_source=_correlate_next(counts[:, 0] / sizes),
        lag_length=_correlate_next(np.array([lengths[rows].mean() for rows in batches])),
    )


def make_items(starts: Int64[np.ndarray, " shards_and_end"]) -> Int64[np.ndarray, " examples"]:
    """The item of each example: consecutive ones, within a shard."""
    num_examples = int(starts[-1])
    sizes = np.random.default_rng(1).choice(ITEM_SIZES, num_examples, p=ITEM_SHARES)
    is_first = np.zeros(num_examples, dtype=bool)
    begins = np.concatenate([[0], np.cumsum(sizes)])
    is_first[begins[begins < num_examples]] = True
    is_first[starts[:-1]] = True
    return np.cumsum(is_first)


def measure_orders(num_examples: int) -> Mapping[str, OrderMeasures]:
    """A true permutation, and every order beside it."""
    table = make_table(num_examples)
    items = make_items(table.starts)
    count = make_config("count")
    configs = {
        "count": count,
        "alike": replace(count, alike=True),
        "cell": make_config("cell"),
        "pack": make_config("pack"),
    }
    steps = {PERMUTATION: permute(table, count)}
    steps |= {name: list_steps(table, config) for name, config in configs.items()}
    return {name: _measure_steps(found, table, items) for name, found in steps.items()}


def list_steps(table: ExampleTable, config: OrderConfig) -> list[list[Unit]]:
    """The steps of an epoch that hold pictures, as units."""
    plan = Order(table, config).plan(0)
    steps = [plan.step_units(step) for step in range(plan.num_steps)]
    modalities = np.repeat(table.modalities, np.diff(table.starts))
    return [units for units in steps if modalities[units[0].rows[0]] == PICTURES]


def permute(table: ExampleTable, config: OrderConfig) -> list[list[Unit]]:
    """Steps of a true permutation of the pictures, units by count; the last step is left out."""
    rows = np.flatnonzero(np.repeat(table.modalities, np.diff(table.starts)) == PICTURES)
    shuffled = np.random.default_rng(2).permutation(rows)
    shape = (-1, config.units_per_step, config.unit.max_examples)
    whole = len(rows) // (shape[1] * shape[2]) * shape[1] * shape[2]
    return [
        [Unit(unit, len(unit) * int(table.lengths[unit].max())) for unit in step]
        for step in shuffled[:whole].reshape(shape)
    ]


def _measure_steps(
    steps: Sequence[Sequence[Unit]], table: ExampleTable, items: Int64[np.ndarray, " examples"]
) -> OrderMeasures:
    batches = [np.concatenate([unit.rows for unit in units]) for units in steps]
    cost = sum(unit.cost for units in steps for unit in units)
    tokens = sum(int(table.lengths[rows].sum(dtype=np.int64)) for rows in batches)
    return OrderMeasures(
        **asdict(measure_shuffle(batches, table.sources, table.lengths, items)),
        padding=1 - tokens / cost,
        fill=tokens / (UNIT_TOKENS * sum(map(len, steps))),
        num_batches=len(batches),
    )


def _measure_dispersion(counts: Int64[np.ndarray, "batches sources"], sizes: Rows) -> float:
    shares = counts.sum(axis=0) / sizes.sum()
    expected = sizes[:, None] * shares
    present = shares > 0
    scaled = (counts - expected)[:, present] ** 2 / (expected * (1 - shares))[:, present]
    return float(scaled.mean())


def _count_siblings(items: Rows) -> int:
    _, counts = np.unique(items, return_counts=True)
    return int(counts[counts > 1].sum())


def _correlate_next(values: Float64[np.ndarray, " batches"]) -> float:
    """Of a value with the next one; 0 where all are the same."""
    centered = values - values.mean()
    spread = float((centered**2).sum())
    return sum(one * other for one, other in pairwise(centered.tolist())) / spread if spread else 0.0


def main() -> None:
    """Measure all orders and say what they look like."""
    num_examples = int(sys.argv[1]) if len(sys.argv) > 1 else NUM_EXAMPLES
    told = {name: asdict(measures) for name, measures in measure_orders(num_examples).items()}
    sys.stdout.write(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
