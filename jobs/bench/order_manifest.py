"""A made-up table of examples like mix665k's, and the process that plans it: time and memory by themselves.

Six sources of different lengths, all together 20 to 2000 text tokens with a median near 120, 1,310 examples a
shard, three modalities of which pictures are most. Started as a program with (examples, unit) it says, as
JSON, how long the first step took from a table in memory on; how long the first step of a new plan takes at
the start of an epoch and at 90 % of it, medians, taking turns; what units hold; and how much memory the
process took.
"""

import json
import sys
import time
from statistics import median
from typing import Final

import numpy as np

from infra.machine import read_peak_bytes
from pipelines.stream.order import Order, OrderConfig
from pipelines.stream.table import ExampleTable
from pipelines.stream.units import UnitKind, UnitRule

EXAMPLES_PER_SHARD: Final = 1310
SHARES: Final = (0.35, 0.25, 0.15, 0.12, 0.08, 0.05)
MEDIANS: Final = (70, 100, 140, 190, 300, 420)
SPREAD: Final = 0.8
"""Of the logarithm of lengths, within each source."""
MODALITIES: Final = (0.9, 0.06, 0.04)
UNIT_TOKENS: Final = 4096
NUM_FILL_STEPS: Final = 200
NUM_STARTS: Final = 11


def make_table(num_examples: int) -> ExampleTable:
    """The table; the same for the same number."""
    random = np.random.default_rng(0)
    num_shards = max(8, num_examples // EXAMPLES_PER_SHARD)
    lengths = np.empty(num_examples, dtype=np.uint32)
    sources = np.empty(num_examples, dtype=np.uint8)
    for start in range(0, num_examples, 1 << 20):
        part = slice(start, min(start + (1 << 20), num_examples))
        sources[part] = random.choice(len(SHARES), part.stop - part.start, p=SHARES)
        middle = np.log(MEDIANS)[sources[part]]
        lengths[part] = np.clip(np.exp(random.normal(middle, SPREAD)), 20, 2000)
    return ExampleTable(
        ids=random.integers(0, 2**64, num_examples, dtype=np.uint64, endpoint=False),
        sources=sources,
        lengths=lengths,
        starts=np.linspace(0, num_examples, num_shards + 1).astype(np.int64),
        modalities=random.choice(len(MODALITIES), num_shards, p=MODALITIES).astype(np.uint8),
    )


def make_config(unit: UnitKind) -> OrderConfig:
    """Steps of 128 examples by count, or of 8 cells or packs."""
    is_counted = unit == "count"
    return OrderConfig(
        seed=1,
        unit=UnitRule(kind=unit, max_examples=8 if is_counted else 1, max_tokens=UNIT_TOKENS),
        units_per_step=16 if is_counted else 8,
        weights=(1.0,) * len(SHARES),
    )


def main() -> None:
    """Plan one table and say what it took."""
    table, unit = make_table(int(sys.argv[1])), sys.argv[2]
    config = make_config(_as_kind(unit))
    started_s = time.process_time()
    order = Order(table, config)
    plan = order.plan(0)
    plan.step_units(0)
    first_s = time.process_time() - started_s
    early, late = [list[float]() for _ in range(2)]
    for number in range(NUM_STARTS):
        early.append(_time_start(order, number))
        late.append(_time_start(order, plan.num_steps * 9 // 10 + number))
    tokens = cost = units = 0
    for step in range(min(NUM_FILL_STEPS, plan.num_steps)):
        for one in plan.step_units(step):
            tokens += int(table.lengths[one.rows].sum(dtype=np.int64))
            cost += one.cost
            units += 1
    told = {
        "first_batch_s": first_s,
        "early_start_s": median(early),
        "late_start_s": median(late),
        "num_steps": plan.num_steps,
        "padding": 1 - tokens / cost,
        "fill": tokens / (units * UNIT_TOKENS),
        "peak_mib": read_peak_bytes() / 2**20,
    }
    sys.stdout.write(json.dumps(told))


def _time_start(order: Order, step: int) -> float:
    started_s = time.process_time()
    order.plan(0).step_units(step)
    return time.process_time() - started_s


def _as_kind(unit: str) -> UnitKind:
    kinds: dict[str, UnitKind] = {"count": "count", "cell": "cell", "pack": "pack"}
    return kinds[unit]


if __name__ == "__main__":
    main()
