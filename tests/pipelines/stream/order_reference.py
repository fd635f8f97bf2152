"""The order of an epoch again, slow and plain: Python integers, lists, and units carried by hand."""

from fractions import Fraction

from pipelines.stream.hashing import Purpose, make_key, mix_integer
from pipelines.stream.order import OrderConfig
from pipelines.stream.table import ExampleTable
from pipelines.stream.units import UnitRule

Unit = list[int]
Place = list[Unit]
"""A place in a class's stream: one unit, and those that ride along."""


def hash_one(value: int, key: int) -> int:
    return mix_integer(value ^ key)


def plan_slowly(table: ExampleTable, config: OrderConfig, epoch: int) -> list[list[Unit]]:
    """All steps of an epoch, units of rows; the configuration's fill is the calibrated one."""
    steps: list[list[Unit]] = []
    carried: dict[int, list[Place]] = {}
    num_batches: dict[int, int] = {}
    blocks = shard_blocks(table, config, epoch)
    classes = slow_classes(table, config)
    for number, block in enumerate(blocks):
        complete: list[tuple[int, int, list[Place]]] = []
        for kind in sorted(set(classes)):
            before = num_batches.get(kind, 0) * config.units_per_step + len(carried.get(kind, []))
            shards = [shard for shard in block if classes[shard] == kind]
            waiting = carried.get(kind, []) + block_places(table, config, epoch, number, shards, kind, before)
            is_last = number == len(blocks) - 1
            while len(waiting) >= config.units_per_step or (is_last and waiting and config.tail == "short"):
                index = num_batches.get(kind, 0)
                num_batches[kind] = index + 1
                complete.append((kind, index, waiting[: config.units_per_step]))
                waiting = waiting[config.units_per_step :]
            carried[kind] = waiting
        key = make_key(config.seed, epoch, Purpose.STEPS)
        complete.sort(key=lambda step: hash_one((step[1] << 8) | step[0], key))
        steps += [[unit for place in places for unit in place] for _, _, places in complete]
    return [sorted(units, key=lambda rows: -cost(table, config.unit, rows)) for units in steps]


def cost(table: ExampleTable, rule: UnitRule, rows: Unit) -> int:
    lengths = [int(table.lengths[row]) for row in rows]
    return sum(lengths) if rule.kind == "pack" else len(lengths) * max(lengths)


def block_places(table, config, epoch, number, shards, kind, before) -> list[Place]:
    rows = [
        row
        for shard in shards
        for row in range(int(table.starts[shard]), int(table.starts[shard + 1]))
        if is_taken(table, config, epoch, row)
    ]
    key = make_key(config.seed, epoch, Purpose.EXAMPLES)
    rows.sort(key=lambda row: hash_one(int(table.ids[row]), key))
    count = slow_count(table, config.unit, rows)
    units = slow_units(table, config.unit, rows, count)
    key = make_key(config.seed, epoch, Purpose.UNITS, number, kind)
    if config.alike:
        order = order_alike(before, count, config.units_per_step, key)
    else:
        order = sorted(range(count), key=lambda index: hash_one(index, key))
    places = [[units[index]] for index in order]
    for surplus, unit in enumerate(units[count:]):
        places[surplus % count].append(unit)
    return places


def order_alike(before: int, count: int, size: int, key: int) -> list[int]:
    indexes = list(range(count))
    lead = [] if before % size == 0 else indexes[-(size - before % size) :]
    indexes = indexes[: count - len(lead)]
    runs = [indexes[begin : begin + size] for begin in range(0, len(indexes), size)]
    trail = runs.pop() if runs and len(runs[-1]) < size else []
    shuffled = sorted(range(len(runs)), key=lambda run: hash_one(run, key))
    return lead + [index for run in shuffled for index in runs[run]] + trail


def slow_count(table: ExampleTable, rule: UnitRule, rows: Unit) -> int:
    if rule.kind == "count":
        return -(-len(rows) // rule.max_examples)
    tokens = sum(int(table.lengths[row]) for row in rows)
    needed = Fraction(tokens * 1000, rule.fill * rule.max_tokens)
    return min(len(rows), -(-needed.numerator // needed.denominator))


def slow_units(table: ExampleTable, rule: UnitRule, rows: Unit, count: int) -> list[Unit]:
    """Units, the surplus last."""
    length = {row: int(table.lengths[row]) for row in rows}
    if not rows:
        return []
    if rule.kind == "count":
        rows = sorted(rows, key=length.__getitem__)
        units = []
        for index in range(count):
            begin = sum(map(len, units))
            units.append(rows[begin : begin + len(rows) // count + (index < len(rows) % count)])
        return units
    falling = sorted(rows, key=lambda row: -length[row])
    if rule.kind == "cell":
        for budget in range(max(1, length[falling[0]]), max(rule.max_tokens, length[falling[0]]) + 1):
            units = cells(falling, length, budget)
            if len(units) <= count:
                break
    else:
        units = fit(rows, length, rule.max_tokens, best=False)
        if len(units) > count:
            units = fit(falling, length, rule.max_tokens, best=True)
    while len(units) < count:
        largest = max((unit for unit in units if len(unit) > 1), key=lambda unit: cost(table, rule, unit))
        cut = len(largest) // 2
        if rule.kind == "pack":
            cut = min(max(1, first_reaching_half(largest, length)), len(largest) - 1)
        units[units.index(largest)] = largest[:cut]
        units.append(largest[cut:])
    return units


def first_reaching_half(rows: Unit, length: dict[int, int]) -> int:
    total = sum(length[row] for row in rows)
    return next(
        place for place in range(len(rows)) if 2 * sum(length[row] for row in rows[: place + 1]) >= total
    )


def cells(falling: Unit, length: dict[int, int], budget: int) -> list[Unit]:
    units: list[Unit] = []
    for row in falling:
        if units and (len(units[-1]) + 1) * length[units[-1][0]] <= budget:
            units[-1].append(row)
        else:
            units.append([row])
    return units


def fit(rows: Unit, length: dict[int, int], capacity: int, *, best: bool) -> list[Unit]:
    units: list[Unit] = []
    for row in rows:
        room = {place: capacity - sum(length[other] for other in unit) for place, unit in enumerate(units)}
        fitting = [place for place, left in room.items() if left >= length[row]]
        if not fitting:
            units.append([row])
        elif best:
            units[min(fitting, key=lambda place: (room[place], place))].append(row)
        else:
            units[fitting[0]].append(row)
    return units


def slow_classes(table: ExampleTable, config: OrderConfig) -> list[int]:
    """The class of each shard."""
    modalities = [int(modality) for modality in table.modalities]
    members = {modality: [modality] for modality in sorted(set(modalities))}
    sizes = {}
    for modality in members:
        rows = [
            row
            for shard, found in enumerate(modalities)
            if found == modality
            for row in range(int(table.starts[shard]), int(table.starts[shard + 1]))
        ]
        sizes[modality] = slow_count(table, config.unit, rows)
    num_blocks = max(1, round(len(modalities) / config.shards_per_block))
    for rare in sorted(sizes, key=lambda modality: (sizes[modality], modality)):
        if not 0 < sizes[rare] < config.units_per_step * num_blocks:
            continue
        hosts = [
            host
            for host in members
            if host != rare
            and any(set(members[host] + members[rare]) <= allowed for allowed in config.mergeable)
        ]
        if hosts:
            host = min(hosts, key=lambda modality: (-sizes[modality], modality))
            members[host] += members.pop(rare)
            sizes[host] += sizes.pop(rare)
    return [next(host for host, merged in members.items() if modality in merged) for modality in modalities]


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
