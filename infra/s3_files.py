"""Input files on S3: `infra/files.py` over the connection of `infra/s3_client.py`.

Requests: `state` and `open` one HEAD each, a read one ranged GET, `list_folder` one LIST a thousand files, a
pattern one HEAD and the LISTs of all below its longest fixed beginning. Nothing is cached, neither listings
nor bytes. An object that is replaced while it is open is read as a mixture of both; callers compare states.
"""

import fnmatch
import io
import os
import threading
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from infra.files import FileState
from infra.s3 import S3Storage
from infra.s3_client import Client, connect, named_failures, read_object
from schemas.errors import NotFoundError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

KEYS_PER_PAGE = 1000
_MAGIC: Final = frozenset("*?[")


class S3Files:
    """The objects below a prefix of a bucket."""

    def __init__(self, url: str) -> None:
        place = S3Storage(url).url.removeprefix("s3://")
        self._bucket, _, self._prefix = place.partition("/")
        self._lock = threading.Lock()
        self._connected: tuple[int, Client] | None = None

    def __reduce__(self) -> tuple[type["S3Files"], tuple[str]]:
        return type(self), (self.url,)

    def __repr__(self) -> str:
        return f"S3Files({self.url!r})"

    @property
    def url(self) -> str:
        """The prefix."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def glob(self, pattern: str) -> list[str]:
        """See `Files.glob`."""
        try:
            self.state(pattern)
        except NotFoundError:
            pass
        else:
            return [pattern]
        start = next((index for index, letter in enumerate(pattern) if letter in _MAGIC), None)
        if start is None:
            return []
        base = len(self._key(""))
        paths = (str(entry["Key"])[base:] for entry in self._list(self._key(pattern[:start])))
        parts = pattern.split("/")
        return sorted(path for path in paths if _matches(path.split("/"), parts))

    def state(self, path: str) -> FileState:
        """See `Files.state`."""
        with named_failures(self._where(path)):
            head = self._client().call_s3("head_object", Bucket=self._bucket, Key=self._key(path))
        return FileState(int(head["ContentLength"]), _nanoseconds(head["LastModified"]), _etag(head))

    def open(self, path: str) -> io.RawIOBase:
        """See `Files.open`."""
        return _S3File(self, path, self.state(path).num_bytes)

    def list_folder(self, folder: str) -> dict[str, FileState]:
        """See `Files.list_folder`."""
        prefix = self._key(f"{folder.rstrip('/')}/" if folder not in ("", ".") else "")
        return {
            str(entry["Key"])[len(prefix) :]: FileState(
                int(entry["Size"]), _nanoseconds(entry["LastModified"]), _etag(entry)
            )
            for entry in self._list(prefix, "/")
            if entry["Key"] != prefix
        }

    def read_range(self, path: str, start: int, end: int) -> bytes:
        """Bytes of an object."""
        return read_object(self._client(), f"{self._bucket}/{self._key(path)}", start, end)

    def _list(self, prefix: str, delimiter: str = "") -> Iterator[dict[str, Any]]:
        request: dict[str, object] = {
            "Bucket": self._bucket,
            "Prefix": prefix,
            "Delimiter": delimiter,
            "MaxKeys": KEYS_PER_PAGE,
        }
        while True:
            with named_failures(f"s3://{self._bucket}/{prefix}"):
                page = self._client().call_s3("list_objects_v2", **request)
            yield from (entry for entry in page.get("Contents", []) if not str(entry["Key"]).endswith("/"))
            if not page.get("IsTruncated"):
                return
            request["ContinuationToken"] = page["NextContinuationToken"]

    def _client(self) -> Client:
        with self._lock:
            if self._connected is None or self._connected[0] != os.getpid():
                self._connected = (os.getpid(), connect())
            return self._connected[1]

    def _key(self, path: str) -> str:
        return f"{self._prefix}/{path}" if self._prefix else path

    def _where(self, path: str) -> str:
        return f"s3://{self._bucket}/{self._key(path)}"


class _S3File(io.RawIOBase):
    """An object, read in ranges."""

    def __init__(self, files: S3Files, path: str, num_bytes: int) -> None:
        self._files = files
        self._path = path
        self._num_bytes = num_bytes
        self._offset = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._offset

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._offset, os.SEEK_END: self._num_bytes}[whence]
        self._offset = max(0, base + offset)
        return self._offset

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(0, self._num_bytes - self._offset)
        length = left if size is None or size < 0 else min(size, left)
        if length == 0:
            return b""
        data = self._files.read_range(self._path, self._offset, self._offset + length)
        self._offset += len(data)
        return data

    def readall(self) -> bytes:
        return self.read()

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)


def _matches(parts: list[str], patterns: list[str]) -> bool:
    """Whether the folders and the name of a path answer to those of a pattern."""
    if not patterns:
        return not parts
    first, *rest = patterns
    if first == "**":
        is_below = bool(parts) and not parts[0].startswith(".")
        return _matches(parts, rest or ["*"]) or (is_below and _matches(parts[1:], patterns))
    if not parts or (parts[0].startswith(".") and not first.startswith(".")):
        return False
    return fnmatch.fnmatchcase(parts[0], first) and _matches(parts[1:], rest)


def _nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp()) * 1_000_000_000  # S3 tells whole seconds


def _etag(entry: dict[str, Any]) -> str:
    return str(entry.get("ETag", "")).strip('"')
