"""One tar with its index: every byte of both, and every member against what is expected of it.

The tar is read once. Its digest covers every bit; headers, order, padding and end are looked at besides, so
that damage has a name and a writer's own fault is found, too. Memory is one member.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest

from infra.storage import Storage
from infra.tar import Member, read_index, read_members
from pipelines.upkeep.findings import FAULT, Checked
from pipelines.upkeep.object_file import ObjectFile
from schemas.corpus import ShardEntry
from schemas.errors import CorruptError, NotFoundError

MAX_NAMED = 3
"""Items that a finding names."""

Look = Callable[[bytes], str | None]
"""Says what is wrong with the data of a member, if anything is."""


@dataclass(slots=True)
class _Walk:
    """What reading a tar showed."""

    num_members: int = 0
    broken: str | None = None
    """Where it ceases to be a tar."""
    wrong: list[str] = field(default_factory=list[str])
    """Members that are not as expected."""
    unlisted: str | None = None
    """The first member that the index tells otherwise of."""


def check_tar(
    storage: Storage, shard: ShardEntry, expected: dict[str, Look] | None, num_items: int
) -> Checked:
    """Check a tar and its index.

    Args:
        storage: the corpus.
        shard: both.
        expected: what its members must be, by name; emptied on the way. None: nobody knows.
        num_items: items that it must hold.
    """
    checked = Checked()
    index = _check_index(storage, shard, checked)
    file = ObjectFile(storage, shard.tar)
    checked.num_objects += 1
    checked.num_bytes += shard.tar.num_bytes
    where = shard.tar.path
    try:
        walk = _walk(file, index, expected)
        is_intact = file.finish() == shard.tar.sha256
    except NotFoundError:
        checked.blame(where, f"is not there, or shorter than {shard.tar.num_bytes} bytes")
        return checked
    if not is_intact:
        detail = walk.broken or walk.unlisted or (walk.wrong[0] if walk.wrong else "between its members")
        checked.blame(where, f"does not hold the bytes that were written: {detail}")
        return checked
    missing = [f"{name} is not there" for name in expected or ()]
    if walk.broken:
        checked.blame(where, walk.broken, FAULT)
    elif walk.wrong or missing:
        first = "; ".join([*walk.wrong, *missing][:MAX_NAMED])
        checked.blame(
            where, f"{len(walk.wrong) + len(missing)} members are not as the tables say: {first}", FAULT
        )
    if walk.unlisted:
        checked.blame(shard.index.path, f"does not fit its tar: {walk.unlisted}", FAULT)
    if expected is not None:
        checked.expect(where, "items", shard.tar.num_rows, num_items)
    checked.expect(shard.index.path, "members", shard.index.num_rows, walk.num_members)
    return checked


def _check_index(storage: Storage, shard: ShardEntry, checked: Checked) -> tuple[Member, ...] | None:
    data = checked.read(storage, shard.index)
    if data is None:
        return None
    try:
        return read_index(data)
    except CorruptError as error:
        checked.blame(shard.index.path, str(error), FAULT)
        return None


def _walk(file: ObjectFile, index: tuple[Member, ...] | None, expected: dict[str, Look] | None) -> _Walk:
    walk = _Walk()
    try:
        for member, listed, data in _pair(file, index):
            if member is None or (index is not None and member != listed):
                name = member.name if member else listed.name if listed else ""
                walk.unlisted = walk.unlisted or f"{name} is not what the index lists there"
            walk.num_members += member is not None
            if member is None or expected is None:
                continue
            look = expected.pop(member.name, None)
            problem = look(data) if look else "belongs to no item of this shard"
            if problem:
                walk.wrong.append(f"{member.name} {problem}")
    except CorruptError as error:
        walk.broken = str(error)
    return walk


def _pair(
    file: ObjectFile, index: tuple[Member, ...] | None
) -> Iterator[tuple[Member | None, Member | None, bytes]]:
    """Members with what the index has at their place; either may end first."""
    for found, listed in zip_longest(read_members(file), index or ()):
        member, data = found or (None, b"")
        yield member, listed, data
