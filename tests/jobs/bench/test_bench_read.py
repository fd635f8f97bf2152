"""The benchmark of reading on a few items: every key, and sides that read the same bytes."""

import hashlib
import sys

import pytest

from infra.storage import LocalStorage
from jobs.bench.bounds import BOUNDS
from jobs.bench.feature_corpus import write_feature_corpus
from jobs.bench.peers import theirs
from jobs.bench.peers.peer import opened_peer
from jobs.bench.read import measure, read_by_rival, read_items
from pipelines.stream.item_room import ALIGNMENT, ItemRoom
from pipelines.stream.reader import FeatureReader
from schemas.errors import CorruptError, WorkError


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_feature_corpus(tmp_path_factory.mktemp("read"), num_shards=2, items_per_shard=2)


def test_every_key_is_measured_and_one_view_is_a_fifth(tmp_path):
    measured = measure(tmp_path, lambda words: None, scale=0.01)
    assert {*measured.ratios, *measured.not_measured} == {*BOUNDS["read"], "vs_litdata", "vs_mds"}
    assert measured.ratios.keys() >= BOUNDS["read"].keys()
    assert all(value > 0 for value in measured.ratios.values())
    assert measured.ratios["one_of_five_bytes"] == pytest.approx(0.2, abs=0.01)


def test_all_sides_read_the_same_bytes(corpus):
    reader = FeatureReader(corpus.storage, corpus.manifest, corpus.spec)
    room = ItemRoom(16 << 20)
    read_by_rival(corpus.list_tars(), [corpus.keys], room)
    room.clear()
    theirs = bytes(room.take(16 << 20))
    unchecked = [bytes(item) for item in reader.fetch(corpus.keys, room)]
    assert theirs.startswith(b"".join(item + bytes(-len(item) % ALIGNMENT) for item in unchecked))
    assert [bytes(item) for item in reader.fetch_checked(corpus.keys, room)] == unchecked


def test_a_rival_that_gives_other_items_is_no_rival(corpus):
    with pytest.raises(WorkError, match="other items"):
        read_by_rival(corpus.list_tars()[:1], [corpus.keys], ItemRoom(16 << 20))


def test_the_checked_side_checks(corpus, tmp_path):
    shard, key = corpus.keys[0]
    entry = corpus.manifest.features[corpus.spec].shards[0].tar
    data = bytearray(corpus.storage.read_bytes(entry.path))
    data[len(data) // 4] ^= 1
    broken = LocalStorage(tmp_path)
    for path in corpus.storage.list("features"):
        target = broken.local_path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data if path == entry.path else corpus.storage.read_bytes(path))
    reader = FeatureReader(broken, corpus.manifest, corpus.spec)
    assert read_items(reader, [corpus.keys], ItemRoom(16 << 20), is_checked=False) == len(corpus.keys)
    with pytest.raises(CorruptError, match=f"shard {shard}, item {key}"):
        read_items(reader, [corpus.keys], ItemRoom(16 << 20), is_checked=True)


def test_a_peer_reads_the_same_bytes_in_its_own_process(corpus, tmp_path):
    program = tmp_path / "kept.py"
    program.write_text(
        "from jobs.bench.peers import theirs\n"
        "theirs.OPEN['kept'] = lambda folder, items: list(items)\n"
        "theirs.main()\n"
    )
    items = FeatureReader(corpus.storage, corpus.manifest, corpus.spec).fetch(corpus.keys, ItemRoom(16 << 20))
    folder = tmp_path / "kept"
    with opened_peer("kept", corpus.list_tars(), folder, 3, [sys.executable, str(program)]) as peer:
        assert peer.digest() == hashlib.sha256(b"".join(map(bytes, items))).hexdigest()
        assert 0 < peer.read() < 60


def test_a_peer_that_ends_is_told(corpus, tmp_path):
    command = [sys.executable, "-c", ""]
    with (
        opened_peer("gone", corpus.list_tars(), tmp_path / "gone", 3, command) as peer,
        pytest.raises(WorkError, match="gone ended instead of answering"),
    ):
        peer.read()


def test_a_batch_is_filled_from_its_start(corpus):
    items = [b"1" * 70, b"2" * 64, b"3", b"44"]
    room = bytearray(300)
    assert theirs.read_all(items, memoryview(room), 3) == 137
    assert room == b"44" + b"1" * 68 + bytes(58) + b"2" * 64 + b"3" + bytes(107)
