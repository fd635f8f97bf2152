"""The benchmark of reading on a few items: every key, and sides that read the same bytes."""

import hashlib
import sys
from dataclasses import replace

import pytest

from infra.storage import LocalStorage
from jobs.bench.bounds import BOUNDS
from jobs.bench.feature_corpus import write_feature_corpus
from jobs.bench.peers import theirs
from jobs.bench.peers.peer import opened_peer
from jobs.bench.read import UncheckedReader, measure, read_by_rival, read_plainly
from operators.feature_file import cut_views, read_header
from pipelines.stream.reader import FeatureReader
from pipelines.stream.used_rooms import UsedRooms
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


def read_unchecked(corpus, batches):
    return [bytes(item) for batch in UncheckedReader(corpus).read(batches) for item in batch]


def test_all_sides_read_the_same_bytes(corpus):
    batches = [corpus.keys[:3], corpus.keys[3:]]
    tars = b"".join(path.read_bytes() for path in corpus.list_tars())
    ours = read_unchecked(corpus, batches)
    assert len(ours) == 4
    assert all(item in tars for item in ours)
    assert [
        bytes(item) for batch in read_by_rival(corpus.list_tars(), batches, UsedRooms()) for item in batch
    ] == ours
    assert read_plainly(corpus.list_tars(), 100_000) == len(tars)
    reader = FeatureReader(corpus.storage, corpus.manifest, corpus.spec)
    checked = [item for batch in batches for item in reader.read_features(batch)]
    for item, (medium,) in zip(ours, checked, strict=True):
        assert cut_views(read_header(item), memoryview(item)) == [*medium.payloads]


def test_a_rival_that_gives_other_items_is_no_rival(corpus):
    with pytest.raises(WorkError, match="other items"):
        [*read_by_rival(corpus.list_tars()[:1], [corpus.keys], UsedRooms())]


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
    assert len(read_unchecked(replace(corpus, storage=broken), [corpus.keys])) == len(corpus.keys)
    reader = FeatureReader(broken, corpus.manifest, corpus.spec)
    with pytest.raises(CorruptError, match=f"shard {shard}, item {key}"):
        reader.read_features(corpus.keys)


def test_a_peer_reads_the_same_bytes_in_its_own_process(corpus, tmp_path):
    program = tmp_path / "kept.py"
    program.write_text(
        "from jobs.bench.peers import theirs\n"
        "theirs.OPEN['kept'] = lambda folder, items: list(items)\n"
        "theirs.main()\n"
    )
    items = read_unchecked(corpus, [corpus.keys])
    folder = tmp_path / "kept"
    with opened_peer("kept", corpus.list_tars(), folder, 3, [sys.executable, str(program)]) as peer:
        assert peer.digest() == hashlib.sha256(b"".join(items)).hexdigest()
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
