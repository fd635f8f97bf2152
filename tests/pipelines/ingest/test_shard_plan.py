"""The shard plan: a partition that depends on the set of items, and moves little when one is added."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.ingest.plan import PlannedItems, count_views, join_buckets, key_range, plan_bucket
from schemas.medium import KEY_BITS
from schemas.plan import Leaf
from schemas.recipe import ShardLimits, VideoViews, ViewsConfig
from schemas.record import MediumKind, Modality


@dataclass(frozen=True)
class PlannedItem:
    key: str
    modality: Modality
    num_media_bytes: int
    num_views: int


# Few distinct leading bits, so that deep splits happen.
keys = st.integers(0, 2**KEY_BITS - 1) | st.integers(0, 255) | st.integers(0, 15).map(lambda n: n << 124)
items = st.builds(
    PlannedItem,
    key=keys.map(lambda number: f"{number:032x}"),
    modality=st.sampled_from([Modality.IMAGE, Modality.VIDEO, Modality.TEXT]),
    num_media_bytes=st.integers(0, 120),
    num_views=st.integers(0, 12),
)
item_sets = st.lists(items, max_size=40, unique_by=lambda item: item.key)
limits = st.builds(ShardLimits, max_bytes=st.integers(1, 300), max_views=st.integers(1, 30))


def as_planned(modality, items):
    members = sorted((item for item in items if item.modality is modality), key=lambda item: item.key)
    return PlannedItems(
        modality,
        np.array([[int(item.key[:16], 16), int(item.key[16:], 16)] for item in members], dtype=np.uint64),
        np.array([item.num_media_bytes for item in members], dtype=np.int64),
        np.array([item.num_views for item in members], dtype=np.int64),
    )


@dataclass(frozen=True)
class Shard:
    leaf: Leaf
    keys: tuple[str, ...]


def plan_shards(items, limit, bits=0):
    """The leaves with the keys in each, from as many buckets as there are leading bits."""
    buckets = {}
    for item in items:
        buckets.setdefault(bits_of(item.key)[:bits], []).append(item)
    trees = {
        prefix: {
            modality: plan_bucket(as_planned(modality, members), prefix, limit)
            for modality in {item.modality for item in members}
        }
        for prefix, members in buckets.items()
    }
    shards = []
    for leaf in join_buckets(trees, limit):
        mine = [item.key for item in items if item.modality is leaf.modality]
        shards.append(Shard(leaf, tuple(sorted(key for key in mine if bits_of(key).startswith(leaf.prefix)))))
    return shards


def bits_of(key):
    return f"{int(key, 16):0{KEY_BITS}b}"


def sums_of(members):
    return sum(item.num_media_bytes for item in members), sum(item.num_views for item in members)


def is_over(members, limit):
    num_bytes, num_views = sums_of(members)
    return num_bytes > limit.max_bytes or num_views > limit.max_views


@given(chosen=item_sets, limit=limits)
def test_leaves_are_a_partition_as_coarse_as_the_limits_allow(chosen, limit):
    shards = plan_shards(chosen, limit)
    by_key = {item.key: item for item in chosen}
    assert sorted(key for shard in shards for key in shard.keys) == sorted(by_key)
    assert len({shard.leaf.name for shard in shards}) == len(shards)
    for shard in shards:
        members = [by_key[key] for key in shard.keys]
        leaf = shard.leaf
        assert list(shard.keys) == sorted(shard.keys)
        assert {item.modality for item in members} == {leaf.modality}
        assert all(bits_of(key).startswith(leaf.prefix) for key in shard.keys)
        assert (leaf.num_items, leaf.num_media_bytes, leaf.num_views) == (len(members), *sums_of(members))
        assert len(members) == 1 or not is_over(members, limit)
        if leaf.prefix:
            parent = leaf.prefix[:-1]
            family = [
                item
                for item in chosen
                if item.modality is leaf.modality and bits_of(item.key).startswith(parent)
            ]
            assert len(family) > 1
            assert is_over(family, limit)


@given(chosen=item_sets, limit=limits, bits=st.integers(1, 6))
def test_the_number_of_buckets_plays_no_part(chosen, limit, bits):
    assert plan_shards(chosen, limit, bits) == plan_shards(chosen, limit)


@given(chosen=item_sets, limit=limits, data=st.data())
def test_order_of_arrival_plays_no_part(chosen, limit, data):
    assert plan_shards(data.draw(st.permutations(chosen)), limit) == plan_shards(chosen, limit)


@given(chosen=item_sets, extra=items, limit=limits)
def test_an_item_that_is_added_touches_one_leaf(chosen, extra, limit):
    if extra.key in {item.key for item in chosen}:
        return
    before = plan_shards(chosen, limit)
    after = plan_shards([*chosen, extra], limit)
    gone = [shard for shard in before if shard not in after]
    new = [shard for shard in after if shard not in before]
    assert len(gone) <= 1
    assert new
    assert {key for shard in new for key in shard.keys} == {
        *(key for shard in gone for key in shard.keys),
        extra.key,
    }
    if gone:
        assert all(shard.leaf.prefix.startswith(gone[0].leaf.prefix) for shard in new)


def test_one_item_over_the_limits_stands_alone():
    heavy = PlannedItem("0" * 32, Modality.VIDEO, 10**9, 512)
    light = PlannedItem("f" * 32, Modality.VIDEO, 1, 1)
    shards = plan_shards([light, heavy], ShardLimits(max_bytes=1000, max_views=10))
    assert [shard.leaf.name for shard in shards] == ["video-0", "video-1"]
    assert plan_shards([heavy], ShardLimits())[0].leaf.name == "video-all"


@given(prefix=st.text("01", max_size=12))
def test_ranges_hold_the_keys_with_a_prefix(prefix):
    first, last = key_range(prefix)
    assert len(first) == len(last) == 32
    assert bits_of(first) == prefix.ljust(KEY_BITS, "0")
    assert bits_of(last) == prefix.ljust(KEY_BITS, "1")


@pytest.mark.parametrize(
    ("kind", "duration_s", "views", "number"),
    [
        (MediumKind.IMAGE, 0.0, ViewsConfig(image="hd4"), 5),
        (MediumKind.IMAGE, 0.0, ViewsConfig(image="global"), 1),
        (MediumKind.VIDEO, 2.5, ViewsConfig(), 3),
        (MediumKind.VIDEO, 3600.0, ViewsConfig(), 512),
        (MediumKind.VIDEO, 0.04, ViewsConfig(), 1),
        (MediumKind.VIDEO, 10.0, ViewsConfig(video=VideoViews(fps=None, uniform=8)), 8),
    ],
)
def test_views_are_counted_from_header_facts(kind, duration_s, views, number):
    assert count_views(kind, duration_s, views) == number
