"""Neighbors are read together: the same items in the same order, and all of it is checked."""

import random

import pytest
import torch
import xxhash

from infra.tar import Member
from operators.feature_file import MediumShape, pack_features, read_header
from pipelines.stream.spans import GAP_BYTES, PIECE_BYTES, Place, Span, SpanCheck, join_spans
from schemas.corpus import ObjectEntry, ShardEntry
from schemas.errors import CorruptError


def entry(name: str) -> ShardEntry:
    there = ObjectEntry(path=name, sha256="0" * 64, num_bytes=1, num_rows=1)
    return ShardEntry(name=name, tar=there, index=there)


SHARDS = {name: entry(name) for name in "ab"}


def place(shard: str, offset: int, size: int, xxh3: str = "") -> Place:
    return Place(SHARDS[shard], f"{offset:x}", Member(f"{offset:x}.feat.bin", offset, size, xxh3))


def item(num_views: int, view_bytes: int) -> bytes:
    choose = random.Random(num_views * view_bytes)
    return pack_features(
        [choose.randbytes(view_bytes) for _ in range(num_views)],
        torch.zeros(num_views, 4, dtype=torch.float16),
        media=[MediumShape(num_views, 1)],
        codec="none",
        codec_version=1,
        num_patches=1,
        width=4,
    )


def lay_out(items: list[bytes], gap: int = 1536) -> tuple[bytes, Span]:
    """Items as they stand in a tar, and the span over them."""
    shard, places = bytearray(512), []
    for data in items:
        places.append(place("a", len(shard), len(data), xxhash.xxh3_64_hexdigest(data)))
        shard += data + bytes(gap)
    span = Span(places)
    return bytes(shard[512 : 512 + span.num_bytes]), span


def test_neighbors_are_joined_and_nothing_else() -> None:
    first, gap = place("a", 512, 100), GAP_BYTES
    near, far = place("a", 612 + gap, 50), place("a", 663 + 2 * gap, 9)
    other = place("b", 672 + 2 * gap, 9)
    assert [span.places for span in join_spans([first, near, far, other])] == [[first, near], [far], [other]]
    assert [span.places for span in join_spans([near, first, first])] == [[near], [first], [first]]
    assert join_spans([]) == []


def test_a_span_is_cut_into_its_items() -> None:
    items = [item(1, 100), item(3, 7), item(2, 5000)]
    data, span = lay_out(items)
    assert [bytes(one) for one in span.cut(memoryview(data))] == items


@pytest.mark.parametrize("step", [1000, 100_000, 10**9])
def test_whatever_comes_at_a_time_items_are_checked(step: int) -> None:
    items = [item(2, PIECE_BYTES // 2), item(300, 16), item(1, 10), item(3, PIECE_BYTES)]
    data, span = lay_out(items)
    ends = [place.end - span.offset for place in span.places]
    check = SpanCheck(span, memoryview(data))
    for done in [*range(0, len(data), step), len(data)]:
        stop = check.see(done)
        assert done < stop <= len(data) or done == len(data)
        assert check.num_whole == sum(end <= done for end in ends)
    assert check.num_whole == len(items)


def test_reading_stops_where_items_end_and_every_few_mib() -> None:
    items = [item(2, 100_000), item(5, PIECE_BYTES // 2), item(1, 10)]
    data, span = lay_out(items)
    starts = [place.member.offset - span.offset for place in span.places]
    check = SpanCheck(span, memoryview(data))
    stops = [check.see(0)]
    while stops[-1] < len(data):
        stops.append(check.see(stops[-1]))
    assert check.see(len(data)) == len(data)
    inside = [starts[1] + PIECE_BYTES, starts[1] + 2 * PIECE_BYTES]
    assert stops == [len(items[0]), *inside, starts[1] + len(items[1]), len(data)]


@pytest.mark.parametrize("place", [1, 1500, -1])
def test_the_item_that_is_damaged_is_known(place: int) -> None:
    items = [item(2, 1000), item(2, 1000), item(2, 1000)]
    data, span = lay_out(items)
    start = span.places[1].member.offset - span.offset
    damaged = bytearray(data)
    damaged[start + place % len(items[1])] ^= 1
    check = SpanCheck(span, memoryview(damaged))
    with pytest.raises(CorruptError, match="no feature file" if place == 1 else "view 1 of 2"):
        check.see(len(data))
    assert check.place == span.places[1]


def test_damage_that_only_the_index_shows() -> None:
    data, span = lay_out([item(2, 1001)])
    damaged = bytearray(data)
    view = read_header(data).views[0]
    damaged[view.offset + view.length] ^= 1
    with pytest.raises(CorruptError, match="checksum of the index"):
        SpanCheck(span, memoryview(damaged)).see(len(data))
