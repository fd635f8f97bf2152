"""Small tables of examples, and the steps of plans in plain lists."""

import numpy as np

from pipelines.stream.order import EpochPlan, Order, OrderConfig
from pipelines.stream.table import ExampleTable
from pipelines.stream.units import UnitRule

EQUAL = (1.0, 1.0, 1.0)
WEIGHTED = (1.0, 0.5, 0.3)
COUNT = UnitRule(kind="count", max_examples=4)
CELL = UnitRule(kind="cell", max_tokens=100)
PACK = UnitRule(kind="pack", max_tokens=100)
RULES = {"count": COUNT, "cell": CELL, "pack": PACK}
ALL_MIX = (frozenset(range(4)),)


def make_table(sizes: list[int], modalities: list[int], num_sources: int = 3, seed: int = 0) -> ExampleTable:
    random = np.random.default_rng(seed)
    count = sum(sizes)
    return ExampleTable(
        ids=random.integers(0, 2**64, count, dtype=np.uint64, endpoint=False),
        sources=random.integers(0, num_sources, count).astype(np.uint8),
        lengths=random.integers(5, 40, count).astype(np.uint32),
        starts=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        modalities=np.array(modalities, dtype=np.uint8),
    )


def make_config(**changes) -> OrderConfig:
    values = {"seed": 7, "unit": COUNT, "units_per_step": 3, "shards_per_block": 3, "weights": EQUAL}
    return OrderConfig(**{**values, **changes})


TABLE = make_table([30, 0, 17, 41, 9, 26, 3, 33, 12, 20], [0, 0, 0, 0, 1, 1, 2, 0, 1, 3])


def plan(config: OrderConfig, epoch: int = 0, table: ExampleTable = TABLE) -> EpochPlan:
    return Order(table, config).plan(epoch)


def rows_of(found: EpochPlan, first: int = 0) -> list[list[list[int]]]:
    return [[unit.rows.tolist() for unit in found.step_units(step)] for step in range(first, found.num_steps)]


def flatten(steps: list[list[list[int]]]) -> list[int]:
    return [row for units in steps for rows in units for row in rows]
