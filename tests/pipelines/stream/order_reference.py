"""The order of an epoch again, slow and plain: Python integers, lists, and units carried by hand."""

from fractions import Fraction

from pipelines.stream.hashing import Purpose, make_key, mix_integer
from pipelines.stream.order import ExampleTable, OrderConfig


def hash_one(value: int, key: int) -> int:
    return mix_integer(value ^ key)


def plan_slowly(table: ExampleTable, config: OrderConfig, epoch: int) -> list[list[list[int]]]:
    """All steps of an epoch: units of rows."""
    steps: list[list[list[int]]] = []
    carried: dict[int, list[list[int]]] = {}
    num_batches: dict[int, int] = {}
    blocks = shard_blocks(table, config, epoch)
    for number, block in enumerate(blocks):
        complete: list[tuple[int, int, list[list[int]]]] = []
        for modality in sorted({int(m) for m in table.modalities}):
            waiting = carried.get(modality, []) + block_units(table, config, epoch, number, block, modality)
            is_last = number == len(blocks) - 1
            while len(waiting) >= config.units_per_step or (is_last and waiting):
                index = num_batches.get(modality, 0)
                num_batches[modality] = index + 1
                complete.append((modality, index, waiting[: config.units_per_step]))
                waiting = waiting[config.units_per_step :]
            carried[modality] = waiting
        key = make_key(config.seed, epoch, Purpose.STEPS)
        complete.sort(key=lambda step: hash_one((step[1] << 8) | step[0], key))
        steps += [units for _, _, units in complete]
    return [
        sorted(units, key=lambda rows: -len(rows) * max(int(table.lengths[r]) for r in rows))
        for units in steps
    ]


def block_units(table, config, epoch, number, block, modality) -> list[list[int]]:
    rows = [
        row
        for shard in block
        if table.modalities[shard] == modality
        for row in range(int(table.starts[shard]), int(table.starts[shard + 1]))
        if is_taken(table, config, epoch, row)
    ]
    key = make_key(config.seed, epoch, Purpose.EXAMPLES)
    rows.sort(key=lambda row: (int(table.lengths[row]), hash_one(int(table.ids[row]), key)))
    count = -(-len(rows) // config.micro_batch)
    units = []
    for index in range(count):
        size = len(rows) // count + (index < len(rows) % count)
        begin = sum(len(unit) for unit in units)
        units.append(rows[begin : begin + size])
    key = make_key(config.seed, epoch, Purpose.UNITS, number, modality)
    return [units[index] for index in sorted(range(count), key=lambda index: hash_one(index, key))]


def is_taken(table: ExampleTable, config: OrderConfig, epoch: int, row: int) -> bool:
    weight = Fraction(round(config.weights[int(table.sources[row])] * 2**32), 2**32)
    start = Fraction(hash_one(int(table.ids[row]), make_key(config.seed, Purpose.TAKE)) >> 32, 2**32)
    return (weight * (epoch + 1) + start) // 1 > (weight * epoch + start) // 1


def shard_blocks(table: ExampleTable, config: OrderConfig, epoch: int) -> list[list[int]]:
    num_shards = len(table.modalities)
    shuffle = make_key(config.seed, epoch, Purpose.SHARDS)
    jitter = make_key(config.seed, epoch, Purpose.JITTER)
    place: dict[int, Fraction] = {}
    for modality in {int(m) for m in table.modalities}:
        members = [shard for shard in range(num_shards) if table.modalities[shard] == modality]
        members.sort(key=lambda shard: hash_one(shard, shuffle))
        for rank, shard in enumerate(members):
            place[shard] = (rank + Fraction(hash_one(shard, jitter) >> 11, 2**53)) / len(members)
    ordered = sorted(range(num_shards), key=lambda shard: place[shard])
    count = max(1, round(num_shards / config.shards_per_block))
    blocks = []
    for index in range(count):
        size = num_shards // count + (index < num_shards % count)
        begin = sum(len(block) for block in blocks)
        blocks.append(ordered[begin : begin + size])
    return blocks
