"""What comes home from the worker of a leaf, and whether what a manifest lists is still there."""

from collections.abc import Iterable
from dataclasses import dataclass

from infra.storage import Storage
from schemas.corpus import CommitRecord, ShardEntry
from schemas.plan import Leaf


@dataclass(frozen=True, slots=True)
class UnitDone:
    """A leaf that is committed."""

    record: CommitRecord
    is_new: bool = True
    """Not so: an earlier run had committed the same already."""


def list_shard(leaf: Leaf, record: CommitRecord) -> ShardEntry:
    """A committed leaf as the manifest lists it."""
    tar, index = record.objects
    return ShardEntry(name=leaf.name, tar=tar, index=index)


def are_there(storage: Storage, folder: str, shards: Iterable[ShardEntry]) -> bool:
    """Whether every shard that is listed lies in its folder: a listing, and nothing is read."""
    found = frozenset(storage.list(folder))
    return all(entry.path in found for shard in shards for entry in (shard.tar, shard.index))
