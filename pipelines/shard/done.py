"""What comes home from the worker of a leaf, and whether what a manifest lists is still there."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from infra.storage import Storage
from schemas.corpus import CommitRecord, ShardEntry
from schemas.events import Counted, EncoderUsed, Event, Rejected
from schemas.plan import Leaf


@dataclass(frozen=True, slots=True)
class LeafDone:
    """A leaf that is committed."""

    record: CommitRecord
    is_new: bool = True
    """Not so: an earlier run had committed the same already."""
    num_views_reused: int = 0
    """Of feature shards that are new."""
    used: EncoderUsed | None = None
    """Of feature shards that are new."""


def list_shard(leaf: Leaf, record: CommitRecord) -> ShardEntry:
    """A committed leaf as the manifest lists it."""
    tar, index = record.objects
    return ShardEntry(name=leaf.name, tar=tar, index=index)


def are_there(storage: Storage, folder: str, shards: Iterable[ShardEntry]) -> bool:
    """Whether every shard that is listed lies in its folder: a listing, and nothing is read."""
    found = frozenset(storage.list(folder))
    return all(entry.path in found for shard in shards for entry in (shard.tar, shard.index))


def list_events(stage: str, done: LeafDone) -> Iterator[Event]:
    """What a leaf brought, for the observer of the run."""
    record = done.record
    if not done.is_new:
        yield Counted(stage=stage, num_items=0, num_found=1)
        return
    yield Counted(
        stage=stage,
        num_items=record.counts["items"],
        num_views=record.counts.get("views", 0),
        num_bytes=sum(entry.num_bytes for entry in record.objects),
        num_views_reused=done.num_views_reused,
    )
    for code, number in sorted(Counter(reject.code for reject in record.rejects).items()):
        yield Rejected(stage=stage, code=code, number=number)
    if done.used:
        yield done.used
