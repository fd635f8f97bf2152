"""The shard plan: which item stands in which shard, as a function of the set of items and of nothing else.

Keys are hashes, so their bits are fair coins. Per modality there is one binary tree over them: a node
that holds too much is split by the next bit, and the leaves are the shards. Order of arrival, number of
workers and history play no part; an item that is added falls into one leaf, and no other shard changes.
Every shard is a random sample of its modality.

A single item that is over the limits stays a leaf of its own. Text-only items count neither bytes nor
views.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from operators.frames import FramePolicy, count_frames
from operators.views import VIEWS_PER_PICTURE
from schemas.corpus import Leaf
from schemas.medium import KEY_BITS, MediumFacts
from schemas.recipe import ShardLimits, ViewsConfig
from schemas.record import MediumKind, Modality


@dataclass(frozen=True, slots=True)
class PlannedItem:
    """What the plan knows of an item."""

    key: str
    modality: Modality
    num_media_bytes: int
    num_views: int


@dataclass(frozen=True, slots=True)
class PlannedShard:
    """A leaf and the keys of its items, sorted."""

    leaf: Leaf
    keys: tuple[str, ...]


def plan_shards(items: Iterable[PlannedItem], limits: ShardLimits) -> list[PlannedShard]:
    """The leaves of all trees, sorted by modality and prefix; empty ones are no shards."""
    trees: dict[Modality, list[PlannedItem]] = {}
    for item in items:
        trees.setdefault(item.modality, []).append(item)
    return [
        shard
        for modality in sorted(trees)
        for shard in _split(sorted(trees[modality], key=lambda item: item.key), "", limits)
    ]


def count_views(facts: MediumFacts, views: ViewsConfig) -> int:
    """How many views a medium will have."""
    if facts.kind is MediumKind.IMAGE:
        return VIEWS_PER_PICTURE[views.image]
    video = views.video
    policy = FramePolicy(fps=video.fps, uniform=video.uniform, max_frames=video.max_frames)
    return count_frames(facts.duration_s, policy)


def key_range(prefix: str) -> tuple[str, str]:
    """The first and the last key that begin with these bits."""
    low = int(prefix.ljust(KEY_BITS, "0"), 2)
    high = int(prefix.ljust(KEY_BITS, "1"), 2)
    return f"{low:0{KEY_BITS // 4}x}", f"{high:0{KEY_BITS // 4}x}"


def _split(items: Sequence[PlannedItem], prefix: str, limits: ShardLimits) -> Iterator[PlannedShard]:
    """Leaves below a node, from its items sorted by key."""
    if not items:
        return
    num_bytes = sum(item.num_media_bytes for item in items)
    num_views = sum(item.num_views for item in items)
    is_over = num_bytes > limits.max_bytes or num_views > limits.max_views
    if not is_over or len(items) == 1:
        leaf = Leaf(
            modality=items[0].modality,
            prefix=prefix,
            num_items=len(items),
            num_media_bytes=num_bytes,
            num_views=num_views,
        )
        yield PlannedShard(leaf, tuple(item.key for item in items))
        return
    first_of_ones = key_range(f"{prefix}1")[0]
    cut = sum(item.key < first_of_ones for item in items)
    yield from _split(items[:cut], f"{prefix}0", limits)
    yield from _split(items[cut:], f"{prefix}1", limits)
