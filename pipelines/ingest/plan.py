"""The shard plan: which item stands in which shard, as a function of the set of items and of nothing else.

Keys are hashes, so their bits are fair coins. Per modality there is one binary tree over them: a node
that holds too much is split by the next bit, and the leaves are the shards. Order of arrival, number of
workers and history play no part; an item that is added falls into one leaf, and no other shard changes.
Every shard is a random sample of its modality.

No process sees all keys. Below the bits that items are grouped by, a tree is a matter of one bucket
(`plan_bucket`); above them only totals count (`join_buckets`). A single item that is over the limits stays a
leaf of its own. Text-only items count neither bytes nor views.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt64

from operators.frames import FramePolicy, count_frames
from operators.views import VIEWS_PER_PICTURE
from schemas.medium import KEY_BITS
from schemas.plan import Leaf, ShardPlan
from schemas.recipe import ShardLimits, ViewsConfig
from schemas.record import MediumKind, Modality

_HALF_BITS = 64


@dataclass(frozen=True, slots=True)
class PlannedItems:
    """What the plan knows of the items of one modality, sorted by key."""

    modality: Modality
    keys: UInt64[np.ndarray, "items 2"]
    """The leading and the trailing 64 bits."""
    num_media_bytes: Int64[np.ndarray, " items"]
    num_views: Int64[np.ndarray, " items"]


@dataclass(frozen=True, slots=True)
class Bucket:
    """The items of a modality whose keys begin with the bits of a bucket."""

    total: Leaf
    """All of them, as if they were one leaf."""
    leaves: ShardPlan
    """The tree that stands here if no node above is a leaf."""


def plan_bucket(items: PlannedItems, prefix: str, limits: ShardLimits) -> Bucket:
    """The tree over the items of one bucket, whose keys all begin with `prefix`."""
    sums = _Sums(items)
    return Bucket(
        sums.leaf(prefix, 0, len(items.keys)), ShardPlan(_split(sums, prefix, 0, len(items.keys), limits))
    )


def join_buckets(buckets: Mapping[str, Mapping[Modality, Bucket]], limits: ShardLimits) -> ShardPlan:
    """The leaves of all trees, sorted by modality and prefix; buckets by their bits, all of one length."""
    return ShardPlan(
        leaf
        for modality in sorted(Modality)
        for leaf in _join(sorted(_buckets_of(buckets, modality), key=lambda pair: pair[0]), "", limits)
    )


def count_views(kind: MediumKind, duration_s: float, views: ViewsConfig) -> int:
    """How many views a medium will have."""
    if kind is MediumKind.IMAGE:
        return VIEWS_PER_PICTURE[views.image]
    video = views.video
    policy = FramePolicy(fps=video.fps, uniform=video.uniform, max_frames=video.max_frames)
    return count_frames(duration_s, policy)


def key_range(prefix: str) -> tuple[str, str]:
    """The first and the last key that begin with these bits."""
    low = int(prefix.ljust(KEY_BITS, "0"), 2)
    high = int(prefix.ljust(KEY_BITS, "1"), 2)
    return f"{low:0{KEY_BITS // 4}x}", f"{high:0{KEY_BITS // 4}x}"


class _Sums:
    """Items of one modality with running sums of what they hold."""

    def __init__(self, items: PlannedItems) -> None:
        self._items = items
        self._bytes = np.concatenate([[0], np.cumsum(items.num_media_bytes)])
        self._views = np.concatenate([[0], np.cumsum(items.num_views)])

    def leaf(self, prefix: str, start: int, end: int) -> Leaf:
        """The items from `start` to `end` as one leaf."""
        return Leaf(
            modality=self._items.modality,
            prefix=prefix,
            num_items=end - start,
            num_media_bytes=int(self._bytes[end] - self._bytes[start]),
            num_views=int(self._views[end] - self._views[start]),
        )

    def find_ones(self, prefix: str, start: int, end: int) -> int:
        """Where, between items that begin with `prefix`, those begin whose next bit is one."""
        half, bit = divmod(len(prefix), _HALF_BITS)
        bits = prefix[half * _HALF_BITS :] + "1"
        first = np.uint64(int(bits, 2) << (_HALF_BITS - 1 - bit))
        return start + int(np.searchsorted(self._items.keys[start:end, half], first))


def _split(sums: _Sums, prefix: str, start: int, end: int, limits: ShardLimits) -> Iterator[Leaf]:
    """Leaves below a node that holds the items from `start` to `end`; empty ones are no shards."""
    if start == end:
        return
    leaf = sums.leaf(prefix, start, end)
    if not _is_over(leaf, limits):
        yield leaf
        return
    cut = sums.find_ones(prefix, start, end)
    yield from _split(sums, f"{prefix}0", start, cut, limits)
    yield from _split(sums, f"{prefix}1", cut, end, limits)


def _buckets_of(
    buckets: Mapping[str, Mapping[Modality, Bucket]], modality: Modality
) -> Iterator[tuple[str, Bucket]]:
    return ((bits, trees[modality]) for bits, trees in buckets.items() if modality in trees)


def _join(buckets: Sequence[tuple[str, Bucket]], prefix: str, limits: ShardLimits) -> Iterator[Leaf]:
    """Leaves below a node, from the buckets in it, sorted by their bits."""
    if not buckets:
        return
    if len(buckets) == 1 and buckets[0][0] == prefix:
        yield from buckets[0][1].leaves
        return
    whole = _add(prefix, [bucket.total for _, bucket in buckets])
    if not _is_over(whole, limits):
        yield whole
        return
    zeros = [pair for pair in buckets if pair[0].startswith(f"{prefix}0")]
    yield from _join(zeros, f"{prefix}0", limits)
    yield from _join(buckets[len(zeros) :], f"{prefix}1", limits)


def _add(prefix: str, totals: Sequence[Leaf]) -> Leaf:
    return Leaf(
        modality=totals[0].modality,
        prefix=prefix,
        num_items=sum(total.num_items for total in totals),
        num_media_bytes=sum(total.num_media_bytes for total in totals),
        num_views=sum(total.num_views for total in totals),
    )


def _is_over(leaf: Leaf, limits: ShardLimits) -> bool:
    """Whether a node has to split; one item cannot."""
    is_too_much = leaf.num_media_bytes > limits.max_bytes or leaf.num_views > limits.max_views
    return is_too_much and leaf.num_items > 1
