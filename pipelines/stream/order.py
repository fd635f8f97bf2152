"""The order of an epoch: a pure function of (examples, configuration, seed, epoch). Nothing is stored.

No rank, worker or history enters, so any number of ranks at any step sees what an undisturbed run would have
seen, and the state of a run is (epoch, step).

- **Mixture and blocks**: `pipelines.stream.mixture`. A block is the shards that are open at one time.
- **Classes.** A unit holds examples of one class: of one modality, or of several where those that are too
  rare to fill a step within a block were merged into another one, by arithmetic, for the whole run.
- **Units** (`pipelines.stream.units`): micro-batches by count, as cells or as packed sequences. Their number
  in a block is fixed by arithmetic before any length is looked at; surplus ones ride along with others.
- **Steps.** A step takes `units_per_step` units of one class's stream. What is left at the end of a block is
  carried into the next; an epoch's end is flushed, so that at most one step of a class is short there, or
  with `tail: drop` left out. The steps that complete in a block are shuffled. Their number is known
  beforehand.

Costs: the table, and sums by shard. A plan takes O(shards) to begin, one scan over the examples when a weight
is below 1, and O(block) to begin anywhere inside. Units adjacent in length make sources cluster; packs do
not. `pipelines/stream/README.md` has the measures.
"""

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from jaxtyping import Bool, Int64

from pipelines.stream.hashing import Purpose, hash_ids, make_key
from pipelines.stream.mixture import argsort, cut_blocks, take_examples
from pipelines.stream.table import ExampleTable, ShardSums, sum_shards
from pipelines.stream.units import PER_MILLE, Unit, UnitRule, calibrate_fill, cut_units
from schemas.errors import ConfigError

Tail = Literal["short", "drop"]
_KEPT_BLOCKS: Final = 4
_CALIBRATION_ROWS: Final = 8192
"""Examples of a class that the fill is calibrated on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderConfig:
    """What decides the order besides the examples."""

    seed: int
    unit: UnitRule
    """`fill` is calibrated."""
    units_per_step: int
    """Units in an optimizer step, over all ranks."""
    shards_per_block: int = 32
    weights: tuple[float, ...]
    """Passes an epoch by source, the largest being 1."""
    tail: Tail = "short"
    """The last step of a class in an epoch: of fewer units, or none."""
    alike: bool = False
    """Units of a step are adjacent in length, too: ranks wait less, sources clump."""
    mergeable: tuple[frozenset[int], ...] = ()
    """Sets of modalities that a unit may mix."""

    def __post_init__(self) -> None:
        if min(self.units_per_step, self.shards_per_block) < 1:
            raise ConfigError("units_per_step and shards_per_block must be at least 1")
        if not all(0 <= weight <= 1 for weight in self.weights):
            raise ConfigError(f"mixture weights {self.weights} must lie in [0, 1] after scaling")
        if self.alike and self.unit.kind != "count":
            raise ConfigError("`alike` goes with units by count: cells and packs cost alike as they are")


class Order:
    """All epochs of a run."""

    def __init__(self, table: ExampleTable, config: OrderConfig) -> None:
        self.table = table
        self._sums = sum_shards(table)
        self.config = replace(config, unit=replace(config.unit, fill=_calibrate(table, config)))
        self.classes = merge_classes(table, self._sums, self.config)
        """Of each shard."""

    def plan(self, epoch: int) -> "EpochPlan":
        """The steps of one epoch."""
        if all(weight == 1 for weight in self.config.weights):
            return EpochPlan(self, epoch, self._sums)
        return EpochPlan(self, epoch, sum_shards(self.table, lambda rows: self.is_taken(rows, epoch)))

    def is_taken(self, rows: slice, epoch: int) -> Bool[np.ndarray, " rows"]:
        """Which of consecutive rows an epoch sees."""
        table, config = self.table, self.config
        return take_examples(table.ids[rows], table.sources[rows], config.weights, config.seed, epoch)


@dataclass(frozen=True, slots=True)
class _Step:
    """Step `index` of one class's stream of units."""

    number: int
    index: int


class EpochPlan:
    """The steps of one epoch."""

    def __init__(self, order: Order, epoch: int, sums: ShardSums) -> None:
        self._order = order
        self._table = order.table
        self._config = order.config
        self._epoch = epoch
        self._classes = [int(number) for number in np.unique(order.classes)]
        self._units: OrderedDict[tuple[int, int], list[list[Unit]]] = OrderedDict()
        self._shuffled: tuple[int, list[_Step]] = (-1, [])
        self.blocks = cut_blocks(
            self._table.modalities, self._config.shards_per_block, self._config.seed, epoch
        )
        """Shards by block."""
        self._count_units(sums)

    @property
    def num_steps(self) -> int:
        """Steps of this epoch, the short ones at its end included."""
        return int(self._first_steps[-1])

    def step_units(self, step: int) -> list[Unit]:
        """The units of a step, the costly ones first: rank r of w takes `[r::w]`."""
        block = self.block_of(step)
        found = self._steps_of_block(block)[step - int(self._first_steps[block])]
        begin = found.index * self._config.units_per_step
        units = self._take_units(found.number, begin, begin + self._config.units_per_step)
        return sorted(units, key=lambda unit: -unit.cost)

    def block_of(self, step: int) -> int:
        """The block in which a step completes."""
        return int(np.searchsorted(self._first_steps, step, side="right")) - 1

    def _count_units(self, sums: ShardSums) -> None:
        """Units before each block by class, and steps before each block: arithmetic alone."""
        shape = (len(self._classes), len(self.blocks) + 1)
        self._first_units = np.zeros(shape, dtype=np.int64)
        for position, number in enumerate(self._classes):
            is_mine = self._order.classes == number
            examples, tokens = (
                np.array([values[block].sum() for block in self.blocks], dtype=np.int64)
                for values in (np.where(is_mine, sums.examples, 0), np.where(is_mine, sums.tokens, 0))
            )
            self._first_units[position, 1:] = np.cumsum(self._config.unit.count_units(examples, tokens))
        first_batches = self._first_units // self._config.units_per_step
        if self._config.tail == "short":
            first_batches[:, -1] = -(-self._first_units[:, -1] // self._config.units_per_step)
        self._first_batches = first_batches
        self._first_steps = first_batches.sum(axis=0)

    def _steps_of_block(self, block: int) -> list[_Step]:
        """The steps that complete in a block, shuffled."""
        if self._shuffled[0] != block:
            steps = [
                _Step(number, index)
                for position, number in enumerate(self._classes)
                for index in range(*self._first_batches[position, block : block + 2].tolist())
            ]
            names = np.array([(step.index << 8) | step.number for step in steps], dtype=np.uint64)
            order = argsort(hash_ids(names, self._key(Purpose.STEPS)))
            self._shuffled = block, [steps[int(index)] for index in order]
        return self._shuffled[1]

    def _take_units(self, number: int, begin: int, end: int) -> list[Unit]:
        """Units begin..end of a class's stream, from all blocks that they lie in, with what rides along."""
        first = self._first_units[self._classes.index(number)]
        units: list[Unit] = []
        block = int(np.searchsorted(first, begin, side="right")) - 1
        while block < len(self.blocks) and first[block] < end:
            start = int(first[block])
            for riding in self._units_of_block(block, number)[max(begin - start, 0) : end - start]:
                units += riding
            block += 1
        return units

    def _units_of_block(self, block: int, number: int) -> list[list[Unit]]:
        key = (block, number)
        if key not in self._units:
            self._units[key] = self._build_units(block, number)
            while len(self._units) > _KEPT_BLOCKS * len(self._classes):
                self._units.popitem(last=False)
        self._units.move_to_end(key)
        return self._units[key]

    def _build_units(self, block: int, number: int) -> list[list[Unit]]:
        """The places of a block's stream: one unit each, and those that ride along."""
        first = self._first_units[self._classes.index(number)]
        start, count = int(first[block]), int(first[block + 1] - first[block])
        rows = self._taken_rows(block, number)
        rows = rows[argsort(hash_ids(self._table.ids[rows], self._key(Purpose.EXAMPLES)))]
        units = cut_units(rows, self._table.lengths[rows], self._config.unit, count)
        places = [[units[index]] for index in self._shuffle_units(block, number, start, count)]
        for surplus, unit in enumerate(units[count:]):
            places[surplus % count].append(unit)
        return places

    def _shuffle_units(self, block: int, number: int, start: int, count: int) -> list[int]:
        key = self._key(Purpose.UNITS, block, number)
        if not self._config.alike:
            return _shuffle(count, key).tolist()
        return _shuffle_alike(start, count, self._config.units_per_step, key)

    def _taken_rows(self, block: int, number: int) -> Int64[np.ndarray, " rows"]:
        starts = self._table.starts
        parts = [np.empty(0, dtype=np.int64)]
        for shard in self.blocks[block]:
            if self._order.classes[shard] == number:
                rows = slice(int(starts[shard]), int(starts[shard + 1]))
                parts.append(rows.start + np.flatnonzero(self._order.is_taken(rows, self._epoch)))
        return np.concatenate(parts)

    def _key(self, purpose: Purpose, *parts: int) -> int:
        return make_key(self._config.seed, self._epoch, purpose, *parts)


def merge_classes(table: ExampleTable, sums: ShardSums, config: OrderConfig) -> Int64[np.ndarray, " shards"]:
    """The class of each shard: its modality, or that of the largest one into which a rare one was merged.

    Rare is what fills less than a step in an average block: its steps would wait for several blocks, whose
    shards would stay open. Nothing is merged that `mergeable` does not allow.
    """
    num_blocks = max(1, round(table.num_shards / config.shards_per_block))
    modalities: list[int] = np.unique(table.modalities).tolist()
    examples, tokens = (
        np.array([values[table.modalities == modality].sum() for modality in modalities], dtype=np.int64)
        for values in (sums.examples, sums.tokens)
    )
    units = config.unit.count_units(examples, tokens).tolist()
    sizes: dict[int, int] = dict(zip(modalities, units, strict=True))
    members = {modality: {modality} for modality in sizes}
    for rare in sorted(sizes, key=lambda modality: (sizes[modality], modality)):
        hosts = [host for host in members if host != rare and _may_mix(members[host] | members[rare], config)]
        if hosts and 0 < sizes[rare] < config.units_per_step * num_blocks:
            host = max(hosts, key=lambda modality: (sizes[modality], -modality))
            members[host] |= members.pop(rare)
            sizes[host] += sizes.pop(rare)
    classes = table.modalities.astype(np.int64)
    for host, merged in members.items():
        classes[np.isin(table.modalities, sorted(merged))] = host
    return classes


def _may_mix(modalities: set[int], config: OrderConfig) -> bool:
    return any(modalities <= allowed for allowed in config.mergeable)


def _calibrate(table: ExampleTable, config: OrderConfig) -> int:
    """The fill that samples of every modality reach: their first shards, in the order of epoch 0."""
    if config.unit.kind == "count":
        return PER_MILLE
    samples: list[Int64[np.ndarray, " rows"]] = []
    blocks = cut_blocks(table.modalities, config.shards_per_block, config.seed, 0)
    shuffled = np.concatenate(blocks)
    for modality in np.unique(table.modalities):
        parts = [np.empty(0, dtype=np.int64)]
        for shard in shuffled[table.modalities[shuffled] == modality]:
            if sum(map(len, parts)) >= _CALIBRATION_ROWS:
                break
            parts.append(table.lengths[table.starts[shard] : table.starts[shard + 1]].astype(np.int64))
        samples.append(np.concatenate(parts)[:_CALIBRATION_ROWS])
    return calibrate_fill(samples, config.unit.kind, config.unit.max_tokens)


def _shuffle(count: int, key: int) -> Int64[np.ndarray, " places"]:
    return argsort(hash_ids(np.arange(count, dtype=np.uint64), key))


def _shuffle_alike(start: int, count: int, units_per_step: int, key: int) -> list[int]:
    """Runs of units adjacent in length that fall into one step each, the runs shuffled.

    The step that a block inherits is completed with its longest units, and the one that it begins with the
    next longest: steps that straddle a border are alike, too.
    """
    lead = min(-start % units_per_step, count)
    trail = (count - lead) % units_per_step
    whole = count - lead - trail
    runs = _shuffle(whole // units_per_step, key)
    middle = [int(run) * units_per_step + place for run in runs for place in range(units_per_step)]
    return [*range(count - lead, count), *middle, *range(whole, whole + trail)]
