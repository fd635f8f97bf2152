"""The commit protocol: who wins, what is refused, and what a reader is told of damage."""

import json
from pathlib import Path

import pytest

from infra.storage import LocalStorage
from pipelines.commit import (
    FIRST_WINS,
    commit,
    find_commit,
    load_manifest,
    parse_commit,
    publish_manifest,
    put_object,
    read_named,
    read_object,
)
from schemas.corpus import CommitRecord, Manifest, ObjectEntry
from schemas.digest import canonical_json
from schemas.errors import ConflictError, CorruptError, MismatchError, NotFoundError

FINGERPRINT = "f" * 64


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path)


def record(entry: ObjectEntry) -> CommitRecord:
    return CommitRecord(unit="shard-image-all", fingerprint=FINGERPRINT, objects=[entry])


def manifest(name: str = "corpus") -> Manifest:
    return Manifest(
        name=name,
        ingest_digest="0" * 64,
        media_digest="0",
        sources=[],
        num_media=0,
        num_media_bytes=0,
        num_media_uses=0,
        examples=[],
        media=[],
        quarantine=[],
        plan=[],
    )


def test_a_unit_is_done_once_its_record_and_objects_stand(storage: LocalStorage) -> None:
    entry = put_object(storage, "shards", "image-all", "tar", b"bytes", num_rows=1)
    assert find_commit(storage, "shard-image-all", FINGERPRINT) is None
    assert commit(storage, record(entry)) == record(entry)
    assert find_commit(storage, "shard-image-all", FINGERPRINT) == record(entry)
    storage.local_path(entry.path).unlink()
    assert find_commit(storage, "shard-image-all", FINGERPRINT) is None


def test_the_same_bytes_twice_agree(storage: LocalStorage) -> None:
    entry = put_object(storage, "shards", "image-all", "tar", b"bytes", num_rows=1)
    assert commit(storage, record(entry)) == commit(storage, record(entry))


def test_other_bytes_are_a_conflict_or_yield(storage: LocalStorage) -> None:
    first = put_object(storage, "shards", "image-all", "tar", b"bytes", num_rows=1)
    second = put_object(storage, "shards", "image-all", "tar", b"other", num_rows=1)
    commit(storage, record(first))
    with pytest.raises(ConflictError, match="different bytes from the same input"):
        commit(storage, record(second))
    assert commit(storage, record(second), when_beaten=FIRST_WINS) == record(first)


def test_objects_are_named_by_their_digest_and_checked(storage: LocalStorage) -> None:
    entry = put_object(storage, "media", "all", "parquet", b"bytes", num_rows=1)
    assert entry.path == f"media/all-{entry.sha256[:16]}.parquet"
    assert read_object(storage, entry) == b"bytes"
    storage.local_path(entry.path).write_bytes(b"flipp")
    with pytest.raises(CorruptError, match="does not hold the bytes"):
        read_object(storage, entry)


def test_no_flipped_bit_of_a_record_is_believed(storage: LocalStorage) -> None:
    entry = put_object(storage, "shards", "image-all", "tar", b"bytes", num_rows=1)
    data = commit(storage, record(entry)).to_bytes()
    assert parse_commit(data, "here") == record(entry)
    for place in range(len(data)):
        for bit in range(8):
            flipped = bytes([*data[:place], data[place] ^ 1 << bit, *data[place + 1 :]])
            with pytest.raises((CorruptError, MismatchError)):
                parse_commit(flipped, "here")


def test_records_of_earlier_releases_bear_no_digest(storage: LocalStorage) -> None:
    entry = put_object(storage, "shards", "image-all", "tar", b"bytes", num_rows=1)
    values = record(entry).model_dump(mode="json")
    assert parse_commit(canonical_json(values), "here") == record(entry)
    with pytest.raises(CorruptError, match="not the record that was written"):
        parse_commit(canonical_json(values | {"sha256": "0" * 64}), "here")


def test_a_changed_record_is_not_gone_on_with(storage: LocalStorage) -> None:
    entry = put_object(storage, "shards", "image-all", "tar", b"bytes", num_rows=1)
    commit(storage, record(entry))
    (path,) = storage.list("commits")
    data = storage.read_bytes(path)
    storage.write_scratch(path, [data.replace(b'"num_rows":1', b'"num_rows":3')])
    with pytest.raises(CorruptError, match="not the record that was written; delete it"):
        find_commit(storage, "shard-image-all", FINGERPRINT)


def test_a_named_object_is_checked_by_its_name(storage: LocalStorage) -> None:
    entry = put_object(storage, "media", "all", "parquet", b"bytes", num_rows=1)
    assert read_named(storage, entry.path) == b"bytes"
    storage.local_path(entry.path).write_bytes(b"flipp")
    with pytest.raises(CorruptError, match="does not hold the bytes"):
        read_named(storage, entry.path)


def test_readers_see_the_published_manifest(storage: LocalStorage) -> None:
    with pytest.raises(NotFoundError, match="holds no corpus"):
        load_manifest(storage)
    publish_manifest(storage, manifest("one"), None)
    publish_manifest(storage, manifest("two"), manifest("one"))
    assert load_manifest(storage) == manifest("two")
    assert storage.exists(manifest("one").path)


def test_who_publishes_second_from_the_same_beginning_is_told(storage: LocalStorage) -> None:
    publish_manifest(storage, manifest("begun"), None)
    publish_manifest(storage, manifest("mine"), manifest("begun"))
    with pytest.raises(ConflictError, match="somebody else"):
        publish_manifest(storage, manifest("yours"), manifest("begun"))
    with pytest.raises(ConflictError, match="somebody else"):
        publish_manifest(storage, manifest("new"), None)
    assert load_manifest(storage) == manifest("mine")


def test_a_lost_object_is_made_again_even_with_other_bytes(storage: LocalStorage) -> None:
    first = put_object(storage, "features", "image-all", "tar", b"bytes", num_rows=1)
    second = put_object(storage, "features", "image-all", "tar", b"other", num_rows=1)
    commit(storage, record(first), when_beaten=FIRST_WINS)
    storage.local_path(first.path).unlink()
    assert find_commit(storage, "shard-image-all", FINGERPRINT) is None
    assert commit(storage, record(second), when_beaten=FIRST_WINS) == record(second)
    assert find_commit(storage, "shard-image-all", FINGERPRINT) == record(second)
    assert len(storage.list("commits")) == 2


def test_publishing_again_changes_nothing(storage: LocalStorage) -> None:
    publish_manifest(storage, manifest(), None)
    before = {path: storage.read_bytes(path) for path in [*storage.list("manifests"), "corpus.json"]}
    publish_manifest(storage, manifest(), None)
    assert before == {path: storage.read_bytes(path) for path in [*storage.list("manifests"), "corpus.json"]}


def test_a_flipped_manifest_is_corrupt(storage: LocalStorage) -> None:
    publish_manifest(storage, manifest(), None)
    path = storage.local_path(manifest().path)
    path.write_bytes(path.read_bytes().replace(b'"num_media":0', b'"num_media":9'))
    with pytest.raises(CorruptError, match="is damaged"):
        load_manifest(storage)


def test_an_unknown_format_version_is_a_mismatch(storage: LocalStorage) -> None:
    publish_manifest(storage, manifest(), None)
    pointer = json.loads(storage.read_bytes("corpus.json"))
    storage.local_path("corpus.json").write_text(json.dumps(pointer | {"format_version": 99}))
    with pytest.raises(MismatchError, match="format version is not"):
        load_manifest(storage)
