"""The order of an epoch: a pure function of (examples, configuration, seed, epoch). Nothing is stored.

No rank, worker or history enters, so any number of ranks at any step sees what an undisturbed run would have
seen, and the state of a run is (epoch, step).

- **Mixture.** A source of weight w in [0, 1] has w passes an epoch: example i with the fixed random number
  u_i is taken in epoch e if floor(w (e + 1) + u_i) > floor(w e + u_i), in 32-bit fixed point. After e epochs
  each was seen floor(w e) or ceil(w e) times, and never twice in one.
- **Blocks.** Shards are shuffled, evenly within each modality, and cut into blocks of about
  `shards_per_block`: the shards that are open at one time.
- **Units.** A unit is a micro-batch: at most `micro_batch` examples of one block and modality, adjacent in
  length. Their number is fixed by arithmetic, ceil(n / micro_batch), before any length is looked at.
- **Steps.** A step takes `units_per_step` units of one modality's stream. What is left at the end of a block
  is carried into the next; an epoch's end is flushed, so at most one step per modality is short. The steps
  that complete in a block are shuffled. The number of steps is known beforehand.

Costs: 13 bytes an example here, O(shards) to start an epoch (one scan over the examples when a weight is
below 1), O(block) to start anywhere inside. Examples adjacent in length makes a source cluster: its share in
a batch varies about three times as much as in a true permutation.

Left out: units by token budget and packing.
"""

from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from jaxtyping import Bool, Int64, Shaped, UInt8, UInt32, UInt64

from pipelines.stream.hashing import Purpose, hash_ids, make_key
from schemas.errors import ConfigError

_KEPT_BLOCKS: Final = 4
_ONE: Final = 1 << 32
"""1 in the fixed point of mixture weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleTable:
    """What the order needs of every example, shard by shard: shard s is rows `starts[s]:starts[s + 1]`."""

    ids: UInt64[np.ndarray, " examples"]
    """First 16 hex digits of the example ids."""
    sources: UInt8[np.ndarray, " examples"]
    lengths: UInt32[np.ndarray, " examples"]
    starts: Int64[np.ndarray, " shards_and_end"]
    modalities: UInt8[np.ndarray, " shards"]
    """A shard holds one modality."""

    @property
    def num_shards(self) -> int:
        """Shards, empty ones among them."""
        return len(self.modalities)


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderConfig:
    """What decides the order besides the examples."""

    seed: int
    micro_batch: int
    """Examples in a unit, at most."""
    units_per_step: int
    """Units in an optimizer step, over all ranks."""
    shards_per_block: int = 32
    weights: tuple[float, ...]
    """Passes an epoch by source, the largest being 1."""

    def __post_init__(self) -> None:
        if min(self.micro_batch, self.units_per_step, self.shards_per_block) < 1:
            raise ConfigError("micro_batch, units_per_step and shards_per_block must be at least 1")
        if not all(0 <= weight <= 1 for weight in self.weights):
            raise ConfigError(f"mixture weights {self.weights} must lie in [0, 1] after scaling")


@dataclass(frozen=True, slots=True)
class Unit:
    """One micro-batch: rows of the table, and what it costs (padded length)."""

    rows: Int64[np.ndarray, " examples"]
    cost: int


@dataclass(frozen=True, slots=True)
class _Step:
    """Batch `index` of one modality's stream of units."""

    modality: int
    index: int


class EpochPlan:
    """The steps of one epoch."""

    def __init__(self, table: ExampleTable, config: OrderConfig, epoch: int) -> None:
        self._table = table
        self._config = config
        self._epoch = epoch
        self._modalities = [int(modality) for modality in np.unique(table.modalities)]
        self._units: OrderedDict[tuple[int, int], list[Unit]] = OrderedDict()
        self._blocks = order_shards(table, config, epoch)
        self._count_units()

    @property
    def num_steps(self) -> int:
        """Steps of this epoch, the short ones at its end included."""
        return int(self._first_steps[-1])

    def step_units(self, step: int) -> list[Unit]:
        """The units of a step, the costly ones first: rank r of w takes `[r::w]`."""
        block = int(np.searchsorted(self._first_steps, step, side="right")) - 1
        found = self._steps_of_block(block)[step - int(self._first_steps[block])]
        begin = found.index * self._config.units_per_step
        units = self._take_units(found.modality, begin, begin + self._config.units_per_step)
        return sorted(units, key=lambda unit: -unit.cost)

    def _count_units(self) -> None:
        """Units before each block by modality, and steps before each block: arithmetic alone."""
        shape = (len(self._modalities), len(self._blocks) + 1)
        self._first_units = np.zeros(shape, dtype=np.int64)
        for position, modality in enumerate(self._modalities):
            of_shard = np.where(self._table.modalities == modality, self._taken_per_shard, 0)
            examples = np.array([of_shard[block].sum() for block in self._blocks], dtype=np.int64)
            self._first_units[position, 1:] = np.cumsum(-(-examples // self._config.micro_batch))
        self._first_batches = self._first_units // self._config.units_per_step
        self._first_batches[:, -1] = -(-self._first_units[:, -1] // self._config.units_per_step)
        self._first_steps = self._first_batches.sum(axis=0)

    @cached_property
    def _taken_per_shard(self) -> Int64[np.ndarray, " shards"]:
        starts = self._table.starts
        if all(weight == 1 for weight in self._config.weights):
            return np.diff(starts)
        counts = [
            np.count_nonzero(self._is_taken(slice(starts[shard], starts[shard + 1])))
            for shard in range(self._table.num_shards)
        ]
        return np.array(counts, dtype=np.int64)

    def _is_taken(self, rows: slice) -> Bool[np.ndarray, " rows"]:
        return take_examples(self._table.ids[rows], self._table.sources[rows], self._config, self._epoch)

    def _steps_of_block(self, block: int) -> list[_Step]:
        """The batches that complete in a block, shuffled."""
        steps = [
            _Step(modality, index)
            for position, modality in enumerate(self._modalities)
            for index in range(*self._first_batches[position, block : block + 2].tolist())
        ]
        names = np.array([(step.index << 8) | step.modality for step in steps], dtype=np.uint64)
        order = _argsort(hash_ids(names, self._key(Purpose.STEPS)))
        return [steps[int(index)] for index in order]

    def _take_units(self, modality: int, begin: int, end: int) -> list[Unit]:
        """Units begin..end of a modality's stream, from all blocks that they lie in."""
        first = self._first_units[self._modalities.index(modality)]
        units: list[Unit] = []
        block = int(np.searchsorted(first, begin, side="right")) - 1
        while block < len(self._blocks) and first[block] < end:
            start = int(first[block])
            units += self._units_of_block(block, modality)[max(begin - start, 0) : end - start]
            block += 1
        return units

    def _units_of_block(self, block: int, modality: int) -> list[Unit]:
        key = (block, modality)
        if key not in self._units:
            self._units[key] = self._build_units(block, modality)
            while len(self._units) > _KEPT_BLOCKS * len(self._modalities):
                self._units.popitem(last=False)
        self._units.move_to_end(key)
        return self._units[key]

    def _build_units(self, block: int, modality: int) -> list[Unit]:
        rows = self._taken_rows(block, modality)
        rows = rows[_argsort(hash_ids(self._table.ids[rows], self._key(Purpose.EXAMPLES)))]
        rows = rows[np.argsort(self._table.lengths[rows], kind="stable")]
        count = -(-len(rows) // self._config.micro_batch)
        if count == 0:
            return []
        names = np.arange(count, dtype=np.uint64)
        shuffled = _argsort(hash_ids(names, self._key(Purpose.UNITS, block, modality)))
        parts: list[Int64[np.ndarray, " rows"]] = np.array_split(rows, count)
        return [self._make_unit(parts[int(index)]) for index in shuffled]

    def _taken_rows(self, block: int, modality: int) -> Int64[np.ndarray, " rows"]:
        starts = self._table.starts
        parts = [np.empty(0, dtype=np.int64)]
        for shard in self._blocks[block]:
            if self._table.modalities[shard] == modality:
                rows = slice(int(starts[shard]), int(starts[shard + 1]))
                parts.append(rows.start + np.flatnonzero(self._is_taken(rows)))
        return np.concatenate(parts)

    def _make_unit(self, rows: Int64[np.ndarray, " rows"]) -> Unit:
        return Unit(rows, len(rows) * int(self._table.lengths[rows[-1]]))

    def _key(self, purpose: Purpose, *parts: int) -> int:
        return make_key(self._config.seed, self._epoch, purpose, *parts)


def take_examples(
    ids: UInt64[np.ndarray, " examples"],
    sources: UInt8[np.ndarray, " examples"],
    config: OrderConfig,
    epoch: int,
) -> Bool[np.ndarray, " examples"]:
    """Which examples an epoch sees, by the weights of their sources."""
    scaled = np.array([round(weight * _ONE) for weight in config.weights], dtype=np.uint64)
    weight = scaled[sources]
    start = hash_ids(ids, make_key(config.seed, Purpose.TAKE)) >> np.uint64(32)
    return ((weight * np.uint64(epoch) + start) & np.uint64(_ONE - 1)) + weight >= np.uint64(_ONE)


def order_shards(table: ExampleTable, config: OrderConfig, epoch: int) -> list[Int64[np.ndarray, " shards"]]:
    """Shards by block: shuffled within each modality, the modalities spread evenly over the blocks."""
    shards = np.arange(table.num_shards, dtype=np.uint64)
    by_hash = hash_ids(shards, make_key(config.seed, epoch, Purpose.SHARDS))
    jitter = (hash_ids(shards, make_key(config.seed, epoch, Purpose.JITTER)) >> np.uint64(11)) / 2.0**53
    place = np.zeros(table.num_shards)
    for modality in np.unique(table.modalities):
        members = np.flatnonzero(table.modalities == modality)
        shuffled = members[_argsort(by_hash[members])]
        place[shuffled] = (np.arange(len(members)) + jitter[shuffled]) / len(members)
    count = max(1, round(table.num_shards / config.shards_per_block))
    return np.array_split(np.argsort(place, kind="stable"), count)


def _argsort(values: Shaped[np.ndarray, " values"]) -> Int64[np.ndarray, " values"]:
    return np.argsort(values, kind="stable")
