"""Storage on S3, for servers that keep to its conditional writes (AWS, Ceph).

The three kinds of write of `infra/storage.py`, in requests:

- `put`: one PUT, above `PART_BYTES` a multipart upload that is given up when anything fails. The object is
  there whole or not at all. One HEAD before it saves sending what is there.
- `create`: one PUT with `If-None-Match: *`. Never multipart: Ceph 16 ignores the condition there.
- `replace`: HEAD, GET, one PUT with `If-Match` on the ETag of the HEAD. The ETag is taken before the bytes
  are compared, so a change at any moment between them is a conflict and never lost.

A PUT whose reply was lost is sent again, by botocore or unseen by aiohttp, and refused because of its own
success. So each conditional PUT carries a number in the object's metadata by which a writer that is refused
knows its own work; that takes one more HEAD.

Listings and objects are never cached. The object holds its URL and nothing else: it travels to workers, and
each process connects by itself, from its own environment. Costs: `replace` takes three requests, `put` two.

A process that is killed leaves its multipart uploads, which no listing shows and which take room.
`sweep_unfinished` gives them up by age; a live writer that was slower than that fails and runs again.
"""

import contextlib
import os
import re
import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

from infra.s3_client import TRIES, Client, connect, named_failures, pause, read_object, refusal_of
from infra.storage import SeekableFile, Seen, StoredObject, checked_path
from schemas.errors import (
    ConfigError,
    ConflictError,
    NotFoundError,
    PipelineError,
    StorageUnavailableError,
)

PART_BYTES = 32 << 20
MAX_PARTS: Final = 10_000
UPLOADS_PER_PAGE = 1000
_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")


class S3Storage:
    """A prefix of a bucket."""

    def __init__(self, url: str) -> None:
        self._bucket, self._prefix = _split_url(url)
        self._lock = threading.Lock()
        self._connected: tuple[int, Client] | None = None

    def __reduce__(self) -> tuple[type["S3Storage"], tuple[str]]:
        return type(self), (self.url,)

    def __repr__(self) -> str:
        return f"S3Storage({self.url!r})"

    @property
    def url(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def exists(self, path: str) -> bool:
        return self._size(path) is not None

    def read_bytes(self, path: str) -> bytes:
        return self._read(path, None, None)

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        if length == 0:
            if not self.exists(path):
                raise NotFoundError(f"{self._where(path)} is not there")
            return b""
        data = self._read(path, offset, offset + length)
        if len(data) != length:
            raise NotFoundError(f"{self._where(path)} ends before byte {offset + length}")
        return data

    def read_into(self, path: str, offset: int, room: memoryview, seen: Seen | None = None) -> None:
        room[:] = self.read_range(path, offset, len(room))
        if seen is not None:
            seen(len(room))

    def put(self, path: str, file: SeekableFile) -> None:
        size = file.seek(0, os.SEEK_END)
        if self._size(path) == size:
            return
        file.seek(0)
        if size > PART_BYTES:
            self._put_parts(path, file, size)
        else:
            self._call("put_object", path, {"Body": file.read()})

    def create(self, path: str, data: bytes) -> bool:
        return self._put_if(path, data, {"IfNoneMatch": "*"})

    def replace(self, path: str, data: bytes, expected: bytes | None) -> None:
        if not self._swap(path, data, expected):
            raise ConflictError(
                f"{self._where(path)} was changed by somebody else meanwhile; run the command again"
            )

    def write_scratch(self, path: str, pieces: Iterable[bytes | memoryview]) -> None:
        self._call("put_object", path, {"Body": b"".join(pieces)})

    def remove(self, path: str) -> None:
        self._call("delete_object", path, {})

    def sweep_unfinished(self, min_age_s: float) -> list[str]:
        swept: list[str] = []
        for key, upload, age_s in self._list_uploads():
            if age_s < min_age_s:
                continue
            with contextlib.suppress(NotFoundError), named_failures(f"s3://{self._bucket}/{key}"):
                request = {"Bucket": self._bucket, "Key": key, "UploadId": upload}
                self._client().call_s3("abort_multipart_upload", **request)
                swept.append(key[self._start :])
        return swept

    def list_objects(self, folder: str) -> list[StoredObject]:
        prefix = f"{self._key(folder)}/"
        request: dict[str, object] = {"Bucket": self._bucket, "Prefix": prefix}
        found: list[StoredObject] = []
        while True:
            with named_failures(f"s3://{self._bucket}/{prefix}"):
                page = self._client().call_s3("list_objects_v2", **request)
            now = _date_of(page)
            found += [
                StoredObject(
                    path=str(entry["Key"])[self._start :],
                    num_bytes=int(entry["Size"]),
                    age_s=_age_s(now, entry["LastModified"]),
                )
                for entry in page.get("Contents", [])
                if not str(entry["Key"]).endswith("/")
            ]
            if not page.get("IsTruncated"):
                break
            request["ContinuationToken"] = page["NextContinuationToken"]
        return sorted(found, key=lambda one: one.path)

    def list(self, folder: str) -> list[str]:
        return [one.path for one in self.list_objects(folder)]

    def _list_uploads(self) -> Iterator[tuple[str, str, float]]:
        """Uploads in parts that were begun and not ended: key, identity, age by the server's clock."""
        prefix = f"{self._prefix}/" if self._prefix else ""
        request: dict[str, object] = {
            "Bucket": self._bucket,
            "Prefix": prefix,
            "MaxUploads": UPLOADS_PER_PAGE,
        }
        while True:
            with named_failures(f"s3://{self._bucket}/{prefix}"):
                page = self._client().call_s3("list_multipart_uploads", **request)
            now = _date_of(page)
            for upload in page.get("Uploads", []):
                yield upload["Key"], upload["UploadId"], _age_s(now, upload["Initiated"])
            if not page.get("IsTruncated"):
                return
            request["KeyMarker"] = page["NextKeyMarker"]
            request["UploadIdMarker"] = page["NextUploadIdMarker"]

    @property
    def _start(self) -> int:
        """Where paths begin in keys."""
        return len(self._prefix) + 1 if self._prefix else 0

    def _swap(self, path: str, data: bytes, expected: bytes | None) -> bool:
        if expected is None:
            return self._put_if(path, data, {"IfNoneMatch": "*"})
        try:
            seen = self._call("head_object", path, {})
            if self.read_bytes(path) != expected:
                return False
        except NotFoundError:
            return False
        return self._put_if(path, data, {"IfMatch": str(seen["ETag"]).strip('"')})  # Ceph: 412 if quoted

    def _put_if(self, path: str, data: bytes, condition: Mapping[str, str]) -> bool:
        writer = secrets.token_hex(16)
        request = {"Body": data, "Metadata": {"writer": writer}, **condition}
        for attempt in range(TRIES):
            with named_failures(self._where(path)):
                try:
                    self._client().call_s3("put_object", Bucket=self._bucket, Key=self._key(path), **request)
                except OSError as error:
                    refusal = refusal_of(error)
                    if (
                        refusal is None
                        or refusal.status not in {404, 409, 412}
                        or refusal.code == "NoSuchBucket"
                    ):
                        raise
                else:
                    return True
            if refusal.status != 409:
                return self._is_by(path, writer)
            pause(attempt)
        raise StorageUnavailableError(
            f"{self._where(path)}: other writers were in the way {TRIES} times; run the command again"
        )

    def _is_by(self, path: str, writer: str) -> bool:
        try:
            seen = self._call("head_object", path, {})
        except NotFoundError:
            return False
        return seen.get("Metadata", {}).get("writer") == writer

    def _put_parts(self, path: str, file: SeekableFile, size: int) -> None:
        part_bytes = max(PART_BYTES, -(-size // MAX_PARTS))
        upload = {"UploadId": self._call("create_multipart_upload", path, {})["UploadId"]}
        parts: list[dict[str, object]] = []
        try:
            while data := file.read(part_bytes):
                part = {"PartNumber": len(parts) + 1}
                reply = self._call("upload_part", path, {**upload, **part, "Body": data})
                parts.append({**part, "ETag": reply["ETag"]})
            self._complete(path, {**upload, "MultipartUpload": {"Parts": parts}}, size)
        except BaseException:
            with contextlib.suppress(PipelineError):
                self._call("abort_multipart_upload", path, upload)
            raise

    def _complete(self, path: str, request: Mapping[str, object], size: int) -> None:
        try:
            self._call("complete_multipart_upload", path, request)
        except NotFoundError:  # a retry after a lost reply: the upload is no more, because it is the object
            if self._size(path) != size:
                raise

    def _size(self, path: str) -> int | None:
        try:
            return int(self._call("head_object", path, {})["ContentLength"])
        except NotFoundError:
            return None

    def _read(self, path: str, start: int | None, end: int | None) -> bytes:
        return read_object(self._client(), f"{self._bucket}/{self._key(path)}", start, end)

    def _call(self, method: str, path: str, arguments: Mapping[str, object]) -> dict[str, Any]:
        key = self._key(path)
        with named_failures(self._where(path)):
            return self._client().call_s3(method, Bucket=self._bucket, Key=key, **arguments)

    def _client(self) -> Client:
        with self._lock:
            if self._connected is None or self._connected[0] != os.getpid():
                self._connected = (os.getpid(), connect())
            return self._connected[1]

    def _key(self, path: str) -> str:
        key = checked_path(path, self.url).as_posix()
        return f"{self._prefix}/{key}" if self._prefix else key

    def _where(self, path: str) -> str:
        return f"s3://{self._bucket}/{self._key(path)}"


def _date_of(page: Mapping[str, Any]) -> datetime:
    """The server's time when it replied."""
    return parsedate_to_datetime(page["ResponseMetadata"]["HTTPHeaders"]["date"])


def _age_s(now: datetime, then: datetime) -> float:
    return max(0.0, (now - then).total_seconds())  # `now` is whole seconds


def _split_url(url: str) -> tuple[str, str]:
    place = url.removeprefix("s3://")
    bucket, _, prefix = place.partition("/")
    if "@" in bucket or ":" in bucket:
        raise ConfigError(
            "the s3:// URL holds more than s3://BUCKET/PREFIX; credentials and the endpoint come from the "
            "environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL_S3"
        )
    if not _BUCKET.fullmatch(bucket):
        raise ConfigError(f"{url}: {bucket!r} can be no bucket; write s3://BUCKET/PREFIX")
    stripped = prefix.strip("/")
    return bucket, checked_path(stripped, f"s3://{bucket}").as_posix() if stripped else ""
