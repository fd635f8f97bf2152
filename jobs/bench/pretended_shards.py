"""Plans of any size, and a worker that writes nothing: what is left is the driver's own work.

Shards are made by the product's planner from keys, bucket by bucket as ingest does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from pipelines.ingest.plan import PlannedItems, join_buckets, plan_bucket
from pipelines.shard.done import LeafDone
from pipelines.shard.write import unit_name
from schemas.corpus import CommitRecord, ObjectEntry
from schemas.digest import digest_of
from schemas.plan import Leaf, ShardPlan
from schemas.recipe import ShardLimits
from schemas.record import Modality

SHARDS_PER_BUCKET: Final = 64
ITEMS_PER_SHARD: Final = 4


@dataclass(frozen=True, slots=True)
class PretendingWorker:
    """Builds a function that writes nothing and tells of a shard."""

    def build(self) -> Callable[[Leaf], LeafDone]:
        """See `Worker.build`."""
        return pretend


def pretend(leaf: Leaf) -> LeafDone:
    """What writing the shard of a leaf would tell."""
    sha256 = digest_of(leaf.name)
    objects = [
        ObjectEntry(path=f"shards/{leaf.name}.{end}", sha256=sha256, num_bytes=1, num_rows=leaf.num_items)
        for end in ("tar", "idx")
    ]
    counts = {"items": leaf.num_items, "examples": leaf.num_items}
    return LeafDone(CommitRecord(unit=unit_name(leaf), fingerprint=sha256, objects=objects, counts=counts))


def plan_shards(num_shards: int) -> ShardPlan:
    """A plan of about so many leaves, all of one modality, every item its own size."""
    limits = ShardLimits(max_bytes=ITEMS_PER_SHARD, max_views=1_000_000)
    bits = max(0, (num_shards // SHARDS_PER_BUCKET).bit_length() - 1)
    per_bucket = round(num_shards * ITEMS_PER_SHARD * 0.72) >> bits
    names = [f"{bucket:0{bits}b}" if bits else "" for bucket in range(1 << bits)]
    items = ((name, _make_items(int(name or "0", 2), bits, per_bucket)) for name in names)
    buckets = {name: {Modality.IMAGE: plan_bucket(one, name, limits)} for name, one in items}
    return join_buckets(buckets, limits)


def _make_items(bucket: int, bits: int, number: int) -> PlannedItems:
    random = np.random.default_rng(bucket)
    low = (
        random.integers(0, 1 << (64 - bits), number, dtype=np.uint64, endpoint=False)
        if bits
        else (random.integers(0, 1 << 63, number, dtype=np.uint64) << np.uint64(1))
    )
    leading = np.sort(low | np.uint64(bucket << (64 - bits) if bits else 0))
    ones = np.ones(number, dtype=np.int64)
    return PlannedItems(Modality.IMAGE, np.stack([leading, np.zeros_like(leading)], axis=1), ones, ones)
