"""Uploads in parts: whole or given up, and those of writers that were killed are swept by age."""

import io
import os

import pytest
from s3_lane import BUCKET

from infra import s3
from infra.s3 import S3Storage
from infra.s3_client import Client, connect
from schemas.errors import NotFoundError

PART_BYTES = 5 << 20
"""The smallest that S3 takes."""


@pytest.fixture
def storage(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> S3Storage:
    monkeypatch.setattr(s3, "PART_BYTES", PART_BYTES)
    return S3Storage(s3_url)


@pytest.fixture
def client(storage: S3Storage) -> Client:
    """Another program that uses the server."""
    return connect()


def test_large_objects_go_in_parts(storage: S3Storage, client: Client) -> None:
    data = os.urandom(1 << 16) * 192
    storage.put("large", io.BytesIO(data))
    assert storage.read_bytes("large") == data
    assert storage.read_range("large", PART_BYTES - 3, 6) == data[PART_BYTES - 3 : PART_BYTES + 3]
    etag = client.call_s3("head_object", Bucket=BUCKET, Key=key_of(storage, "large"))["ETag"]
    assert etag.strip('"').endswith("-3")


def test_an_upload_that_fails_is_given_up(storage: S3Storage, client: Client) -> None:
    class Breaks(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell():
                raise OSError("no more")
            return super().read(size)

    with pytest.raises(OSError, match="no more"):
        storage.put("large", Breaks(bytes(12 << 20)))
    assert not storage.exists("large")
    assert open_uploads(storage, client) == []


@pytest.mark.usefixtures("real_s3")
@pytest.mark.parametrize("per_page", [1000, 2])
def test_what_killed_writers_left_is_swept(
    storage: S3Storage, client: Client, per_page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "UPLOADS_PER_PAGE", per_page)
    names = ["shards/a", "shards/b", "shards/b", "shards/c/d", "tables/e"]
    for name in names:
        begin_upload(storage, client, name)
    elsewhere = S3Storage(f"{storage.url}-beside")
    begin_upload(elsewhere, client, "shards/a")
    storage.put("shards/b", io.BytesIO(b"whole"))

    assert storage.sweep_unfinished(3600.0) == []
    assert sorted(open_uploads(storage, client)) == names
    assert sorted(storage.sweep_unfinished(0.0)) == names
    assert open_uploads(storage, client) == []
    assert storage.read_bytes("shards/b") == b"whole"
    assert open_uploads(elsewhere, client) == ["shards/a"]
    assert elsewhere.sweep_unfinished(0.0) == ["shards/a"]


@pytest.mark.usefixtures("real_s3")
def test_age_is_told_by_the_clock_of_the_server(
    storage: S3Storage, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_upload(storage, client, "shards/a")
    monkeypatch.setattr("time.time", lambda: 0.0)
    assert storage.sweep_unfinished(60.0) == []
    assert storage.sweep_unfinished(0.0) == ["shards/a"]


@pytest.mark.usefixtures("real_s3")
def test_a_writer_that_was_swept_fails_and_leaves_no_object(storage: S3Storage) -> None:
    class Slow(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() == 2 * PART_BYTES:
                assert storage.sweep_unfinished(0.0) == ["large"]
            return super().read(size)

    with pytest.raises(NotFoundError, match="large is not there"):
        storage.put("large", Slow(bytes(12 << 20)))
    assert not storage.exists("large")
    storage.put("large", io.BytesIO(bytes(12 << 20)))
    assert storage.exists("large")


def begin_upload(storage: S3Storage, client: Client, path: str) -> None:
    """What a writer leaves that is killed after its first part."""
    place = {"Bucket": BUCKET, "Key": key_of(storage, path)}
    upload = client.call_s3("create_multipart_upload", **place)["UploadId"]
    client.call_s3("upload_part", **place, UploadId=upload, PartNumber=1, Body=b"half")


def open_uploads(storage: S3Storage, client: Client) -> list[str]:
    prefix = key_of(storage, "")
    page = client.call_s3("list_multipart_uploads", Bucket=BUCKET, Prefix=prefix)
    return [upload["Key"].removeprefix(prefix) for upload in page.get("Uploads", [])]


def key_of(storage: S3Storage, path: str) -> str:
    return f"{storage.url}/{path}".removeprefix(f"s3://{BUCKET}/")
