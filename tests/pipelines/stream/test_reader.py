"""Ranged reads of features: the right views, no other bytes, and damage found and named."""

import gc
import shutil
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_corpus import TinyCorpus, build_corpus

from infra.storage import LocalStorage, Seen
from operators.feature_file import MediumShape
from operators.stored import StoredFeatures
from pipelines.stream.reader import FeatureReader
from pipelines.stream.selection import choose_views, select_frames
from schemas.errors import CorruptError, MismatchError, NotFoundError
from schemas.record import Modality
from schemas.stream import FramesConfig


class CountingStorage(LocalStorage):
    """Notes what is read of tars."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.ranges: list[tuple[int, int]] = []

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        self.ranges.append((offset, length))
        return super().read_range(path, offset, length)

    def read_into(self, path: str, offset: int, room: memoryview, seen: Seen | None = None) -> None:
        self.ranges.append((offset, len(room)))
        super().read_into(path, offset, room, seen)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> TinyCorpus:
    return build_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def copied(corpus: TinyCorpus, tmp_path: Path) -> TinyCorpus:
    """A corpus to be damaged."""
    shutil.copytree(corpus.storage.url, tmp_path / "copy")
    return TinyCorpus(LocalStorage(tmp_path / "copy"), corpus.manifest, corpus.items, corpus.examples)


def open_reader(corpus: TinyCorpus) -> FeatureReader:
    return FeatureReader(corpus.storage, corpus.manifest, corpus.spec)


def address_of_first(media: Sequence[tuple[object, ...]]) -> int:
    stored = media[0][0]
    assert isinstance(stored, StoredFeatures)
    return torch.frombuffer(stored.payloads[0], dtype=torch.uint8).data_ptr()


def test_every_item_comes_back(corpus: TinyCorpus) -> None:
    reader = open_reader(corpus)
    num_checked = 0
    for item in corpus.items:
        if item.modality is Modality.TEXT:
            continue
        media = reader.read_item(item.key)
        assert [tuple(medium.patches.shape[:2]) for medium in media] == [
            (shape.num_frames, shape.views_per_frame) for shape in item.media
        ]
        assert torch.equal(torch.cat([medium.patches.flatten(0, 1) for medium in media]), item.views)
        assert reader.find_shard(item.key) == item.shard
        num_checked += 1
    assert num_checked == 40


def test_the_items_of_a_unit_are_what_each_is_alone(corpus: TinyCorpus) -> None:
    """Neighbors, the same item twice, and items in any order."""
    reader = open_reader(corpus)
    wanted = [(shard, key) for shard in reader.list_shards() for key in reader.list_keys(shard)]
    wanted = [*wanted[:6], *wanted[3:1:-1], *wanted[::5]]
    found = reader.read_features(wanted)
    assert len(found) == len(wanted) > 8
    for media, (shard, key) in zip(found, wanted, strict=True):
        alone = reader.read_stored(key, shard)
        for one, other in zip(media, alone, strict=True):
            assert isinstance(one, StoredFeatures)
            assert [bytes(view) for view in one.payloads] == [bytes(view) for view in other.payloads]
            assert (one.num_frames, one.views_per_frame) == (other.num_frames, other.views_per_frame)


def test_neighbors_of_a_unit_are_one_read(corpus: TinyCorpus) -> None:
    storage = CountingStorage(Path(corpus.storage.url))
    reader = FeatureReader(storage, corpus.manifest, corpus.spec)
    shard = next(name for name in reader.list_shards() if len(reader.list_keys(name)) > 2)
    keys = reader.list_keys(shard)[:3]
    storage.ranges.clear()
    assert len(reader.read_features([(shard, key) for key in keys])) == 3
    assert len(storage.ranges) == 1


def test_memory_is_free_as_soon_as_an_item_is_dropped(corpus: TinyCorpus) -> None:
    """Nothing holds it until the interpreter happens to look for cycles."""
    reader = open_reader(corpus)
    wanted = [(shard, key) for shard in reader.list_shards() for key in reader.list_keys(shard)]
    gc.disable()
    try:
        addresses = {address_of_first(reader.read_features(wanted[:2])) for _ in range(20)}
    finally:
        gc.enable()
    assert len(addresses) == 1


def test_damage_in_a_batch_is_named(copied: TinyCorpus) -> None:
    items = [item for item in copied.items if item.modality is Modality.IMAGE][:3]
    reader, bad = open_reader(copied), items[1]
    member = reader._indexes.find(bad.shard, bad.key).member
    path = copied.tar_path(bad.shard)
    data = bytearray(path.read_bytes())
    data[member.offset + member.size - 1] ^= 1
    path.write_bytes(data)
    wanted = [(item.shard, item.key) for item in items]
    with pytest.raises(CorruptError, match=f"shard {bad.shard}, item {bad.key}: view 4 of 5"):
        open_reader(copied).read_features(wanted)


def test_the_whole_picture_alone(corpus: TinyCorpus) -> None:
    reader = open_reader(corpus)
    item = next(item for item in corpus.items if item.modality is Modality.MULTI)
    media = reader.read_item(item.key, shard=item.shard, views="whole")
    assert [tuple(medium.patches.shape[:2]) for medium in media] == [(1, 1), (1, 1)]
    assert torch.equal(torch.cat([medium.patches[0] for medium in media]), item.views[[4, 9]])


@pytest.mark.parametrize(
    ("frames", "places"),
    [
        (FramesConfig(max=4), [0, 1, 2, 3]),
        (FramesConfig(uniform=4), [25, 75, 125, 175]),
        (FramesConfig(max=999), range(200)),
    ],
)
def test_chosen_frames_of_a_clip(corpus: TinyCorpus, frames: FramesConfig, places: list[int]) -> None:
    item = next(item for item in corpus.items if item.media == (MediumShape(200, 1),))
    (medium,) = open_reader(corpus).read_item(item.key, frames=frames)
    assert torch.equal(medium.patches.squeeze(1), item.views[list(places)])


def test_other_views_are_not_read(corpus: TinyCorpus) -> None:
    storage = CountingStorage(Path(corpus.storage.url))
    reader = FeatureReader(storage, corpus.manifest, corpus.spec)
    item = next(item for item in corpus.items if item.media == (MediumShape(200, 1),))
    reader.read_item(item.key)
    assert len(storage.ranges) == 1
    whole = storage.ranges.pop()[1]
    reader.read_item(item.key, frames=FramesConfig(uniform=3))
    header, rest, *views = [length for _, length in storage.ranges]
    assert header + rest == 64 + 8 + 200 * 24
    assert views == [2 * 8 + 2 * 4 * 8] * 3
    assert sum(length for _, length in storage.ranges) < whole / 3


def test_adjacent_views_are_one_read(corpus: TinyCorpus) -> None:
    storage = CountingStorage(Path(corpus.storage.url))
    item = next(item for item in corpus.items if item.media == (MediumShape(200, 1),))
    FeatureReader(storage, corpus.manifest, corpus.spec).read_item(item.key, frames=FramesConfig(max=50))
    assert len(storage.ranges) == 3


@given(st.integers(1, 300), st.integers(1, 40))
def test_frames_are_spread_and_differ(num_frames: int, wanted: int) -> None:
    uniform = select_frames(num_frames, FramesConfig(uniform=wanted))
    assert len(uniform) == min(num_frames, wanted)
    assert list(uniform) == sorted(set(uniform))
    assert 0 <= uniform[0] <= uniform[-1] < num_frames
    gaps = [later - earlier for earlier, later in pairwise(uniform)]
    assert not gaps or max(gaps) - min(gaps) <= 1
    assert select_frames(num_frames, FramesConfig(max=wanted)) == tuple(range(num_frames))[:wanted]


def test_views_of_several_media() -> None:
    media = [MediumShape(1, 5), MediumShape(3, 1), MediumShape(1, 5)]
    chosen = choose_views(media, "whole", FramesConfig(uniform=1))
    assert [medium.views for medium in chosen] == [(4,), (6,), (12,)]
    assert [medium.shape for medium in chosen] == [MediumShape(1, 1)] * 3
    everything = choose_views(media, "all", FramesConfig())
    assert [place for medium in everything for place in medium.views] == list(range(13))


def test_a_flipped_byte_names_shard_and_item(copied: TinyCorpus) -> None:
    item = next(item for item in copied.items if item.modality is Modality.IMAGE)
    tar = copied.tar_path(item.shard)
    data = bytearray(tar.read_bytes())
    place = data.index(item.views[4].numpy().tobytes())
    data[place] ^= 1
    tar.write_bytes(data)
    reader = open_reader(copied)
    with pytest.raises(CorruptError, match=f"shard {item.shard}, item {item.key}: view 4 of 5"):
        reader.read_item(item.key)
    with pytest.raises(CorruptError):
        reader.read_item(item.key, views="whole")
    other = next(found for found in copied.items if found.shard == item.shard and found != item)
    assert torch.equal(reader.read_item(other.key)[0].patches[0], other.views)


def test_a_missing_or_cut_shard_is_named(copied: TinyCorpus) -> None:
    item = next(item for item in copied.items if item.modality is Modality.IMAGE)
    tar = copied.tar_path(item.shard)
    tar.write_bytes(tar.read_bytes()[:700])
    with pytest.raises(CorruptError, match=f"shard {item.shard}"):
        open_reader(copied).read_item(item.key)
    tar.unlink()
    with pytest.raises(CorruptError, match=f"shard {item.shard}"):
        open_reader(copied).read_item(item.key)


def test_a_damaged_index_is_found(copied: TinyCorpus) -> None:
    item = next(item for item in copied.items if item.modality is Modality.IMAGE)
    index = copied.tar_path(item.shard).parent / next(
        entry.index.path.rsplit("/", 1)[1] for entry in copied.features.shards if entry.name == item.shard
    )
    index.write_bytes(index.read_bytes().replace(b'"offset', b'"offsex').replace(b"512", b"513"))
    with pytest.raises(CorruptError):
        open_reader(copied).read_item(item.key, shard=item.shard)


def test_unknown_keys_shards_and_specs(corpus: TinyCorpus) -> None:
    reader = open_reader(corpus)
    with pytest.raises(NotFoundError, match="no feature shard"):
        reader.read_item("f" * 32)
    with pytest.raises(NotFoundError, match="has no shard image-x"):
        reader.read_item("f" * 32, shard="image-x")
    with pytest.raises(NotFoundError, match=f"it has: {corpus.spec}"):
        FeatureReader(corpus.storage, corpus.manifest, "0" * 16)


def test_features_of_another_spec_are_refused(corpus: TinyCorpus) -> None:
    features = corpus.features
    manifest = corpus.manifest.model_copy(update={"features": {"0123456789abcdef": features}})
    with pytest.raises(MismatchError, match="the manifest says 0123456789abcdef"):
        FeatureReader(corpus.storage, manifest, "0123456789abcdef")
