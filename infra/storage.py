"""Storage behind one small interface: local disks here, object stores in `infra/s3.py`.

Three kinds of write make a corpus:

- `put`: an immutable object whose name holds its digest. Writing it twice is harmless, so a partial write is
  never visible (temporary name, fsync, rename) and an object that is already there with the same size stays.
- `create`: exactly one of several writers wins; the others are told (`os.link` onto the name).
- `replace`: swaps the one mutable file of a corpus, and only if it still holds what the writer saw.

And one passes notes between the workers of a stage: `write_scratch`, which survives no crash and is removed
by `remove` when the stage is done.

Paths are relative, with `/`, below the root that the storage was opened with; one that leaves it is refused.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from functools import lru_cache
from io import RawIOBase
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol, TypeVar, runtime_checkable

from infra.space import named_full_disk
from schemas.errors import ConfigError, ConflictError, FatalError, NotFoundError

COPY_BYTES = 1 << 20
MAX_OPEN = 16
_TEMPORARY = ".writing-"
_FOLDER_TRIES = 20

Opened = TypeVar("Opened")


Seen = Callable[[int], int]
"""Told how many bytes of a buffer are filled; says up to where it wants them next, which is further."""


@runtime_checkable
class SeekableFile(Protocol):
    """What storage needs of a file that it stores."""

    def read(self, size: int = -1, /) -> bytes:
        """Up to `size` bytes; none at the end."""
        ...

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Move, and tell where to."""
        ...


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object as a listing tells of it."""

    path: str
    num_bytes: int
    age_s: float
    """Since it was written, by the storage's own clock."""


@runtime_checkable
class Storage(Protocol):
    """What the pipelines know of storage."""

    @property
    def url(self) -> str:
        """The root, as a user would type it."""
        ...

    def exists(self, path: str) -> bool:
        """Whether an object is there, whole."""
        ...

    def read_bytes(self, path: str) -> bytes:
        """The whole object.

        Raises:
            NotFoundError: when it is not there.
        """
        ...

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`.

        Raises:
            NotFoundError: when the object is not there or ends before.
        """
        ...

    def read_into(self, path: str, offset: int, room: memoryview, seen: Seen | None = None) -> None:
        """Fill a buffer with the bytes from `offset`: no copy is made where the system can read into it.

        `seen` is told how many bytes are there: none, then at least as many as it asked for, in the end all.

        Raises:
            NotFoundError: when the object is not there or ends before.
        """
        ...

    def put(self, path: str, file: SeekableFile) -> None:
        """Store an immutable object, from the start of an open file."""
        ...

    def create(self, path: str, data: bytes) -> bool:
        """Store data under a name that is free; False when somebody else has it already."""
        ...

    def replace(self, path: str, data: bytes, expected: bytes | None) -> None:
        """Swap a file that still holds `expected` (None: is not there).

        Raises:
            ConflictError: when it holds something else.
        """
        ...

    def write_scratch(self, path: str, pieces: Iterable[bytes | memoryview]) -> None:
        """Store, one after the other, what nobody needs after a crash."""
        ...

    def remove(self, path: str) -> None:
        """Drop an object; one that is not there is no error."""
        ...

    def sweep_unfinished(self, min_age_s: float) -> list[str]:
        """Drop what writers that were killed left half written, if it is older than that by the storage's
        clock; the paths of what was dropped. No finished object is touched.
        """
        ...

    def list_objects(self, folder: str) -> list[StoredObject]:
        """All objects below a folder, sorted by path."""
        ...

    def list(self, folder: str) -> list[str]:
        """Paths of all objects below a folder, sorted."""
        ...


def open_storage(url: str | Path) -> Storage:
    """The storage at a path or URL.

    Raises:
        ConfigError: for a scheme that no storage is known for, a path that can be no folder, or a name that
            can be no bucket.
    """
    text = str(url)
    scheme, separator, _ = text.partition("://")
    if separator and scheme == "s3":
        from infra.s3 import S3Storage  # local runs load no S3 library

        return S3Storage(text)
    if separator and scheme != "file":
        raise ConfigError(f"{text}: no storage for {scheme}://; use a local path or s3://BUCKET/PREFIX")
    path = text.removeprefix("file://")
    if not path or "\0" in path:
        raise ConfigError(f"{text!r} is no place for a corpus; name a folder")
    root = Path(path).absolute()
    nearest = next(folder for folder in (root, *root.parents) if folder.exists())
    if not nearest.is_dir():
        raise ConfigError(f"{text}: {nearest} is a file; name a folder")
    return LocalStorage(root)


@lru_cache(maxsize=1024)
def checked_path(path: str, root: str) -> PurePosixPath:
    """A path that stays below a root, without empty and `.` parts.

    Raises:
        FatalError: when it does not.
    """
    checked = PurePosixPath(path)
    if not checked.parts or checked.is_absolute() or ".." in checked.parts:
        raise FatalError(f"{path!r} is no path below {root}")
    return checked


class _OpenFile:
    """Is closed when nobody reads from it any more, so that one thread closes no file of another."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


class LocalStorage:
    """A folder of a local or network file system with hard links and rename."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._kept_open: dict[str, _OpenFile] = {}

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_kept_open": {}}

    @property
    def url(self) -> str:
        return str(self._root)

    def local_path(self, path: str) -> Path:
        """Where an object lies in the file system."""
        return self._root / checked_path(path, self.url)

    def exists(self, path: str) -> bool:
        return self.local_path(path).is_file()

    def read_bytes(self, path: str) -> bytes:
        try:
            return self.local_path(path).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise NotFoundError(f"{self.local_path(path)} is not there") from error

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        opened = self._open(path)
        data = os.pread(opened.descriptor, length, offset)
        if len(data) != length:
            raise NotFoundError(f"{self.local_path(path)} ends before byte {offset + length}")
        return data

    def read_into(self, path: str, offset: int, room: memoryview, seen: Seen | None = None) -> None:
        opened = self._keep_open(path)
        if not read_descriptor(opened.descriptor, offset, room, seen):
            raise NotFoundError(f"{self.local_path(path)} ends before byte {offset + len(room)}")

    def put(self, path: str, file: SeekableFile) -> None:
        target = self.local_path(path)
        if target.is_file() and target.stat().st_size == file.seek(0, os.SEEK_END):
            return
        file.seek(0)
        with self._temporary(target) as (temporary, name):
            shutil.copyfileobj(file, temporary, COPY_BYTES)
            _flush(temporary)
            name.replace(target)
        _flush_folder(target.parent)

    def create(self, path: str, data: bytes) -> bool:
        target = self.local_path(path)
        with self._temporary(target) as (temporary, name):
            temporary.write(data)
            _flush(temporary)
            try:
                os.link(name, target)
            except FileExistsError:
                return False
            name.unlink()
        _flush_folder(target.parent)
        return True

    def replace(self, path: str, data: bytes, expected: bytes | None) -> None:
        target = self.local_path(path)
        with named_full_disk(target.parent):
            target.parent.mkdir(parents=True, exist_ok=True)
            opened = (target.parent / f".{target.name}.lock").open("ab")
        with opened as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = target.read_bytes() if target.is_file() else None
            if found != expected:
                raise ConflictError(f"{target} was changed by somebody else meanwhile; run the command again")
            with self._temporary(target) as (temporary, name):
                temporary.write(data)
                _flush(temporary)
                name.replace(target)
            _flush_folder(target.parent)

    def write_scratch(self, path: str, pieces: Iterable[bytes | memoryview]) -> None:
        target = self.local_path(path)
        with (
            named_full_disk(target.parent),
            _open_in_folder(target.parent, lambda: target.open("wb", buffering=0)) as file,
        ):
            for piece in pieces:
                _write_whole(file, piece)

    def remove(self, path: str) -> None:
        target = self.local_path(path)
        target.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            target.parent.rmdir()

    def sweep_unfinished(self, min_age_s: float) -> list[str]:
        if not self._root.is_dir():
            return []
        now = self._now()
        swept: list[str] = []
        for path in sorted(self._root.rglob(f"{_TEMPORARY}*")):
            with contextlib.suppress(FileNotFoundError):
                if path.is_file() and now - path.stat().st_mtime >= min_age_s:
                    path.unlink()
                    swept.append(path.relative_to(self._root).as_posix())
        return swept

    def list_objects(self, folder: str) -> list[StoredObject]:
        paths = self.list(folder)
        now = self._now() if paths else 0.0
        found: list[StoredObject] = []
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                state = self.local_path(path).stat()
                found.append(StoredObject(path, state.st_size, max(0.0, now - state.st_mtime)))
        return found

    def list(self, folder: str) -> list[str]:
        base = self.local_path(folder)
        return sorted(
            path.relative_to(self._root).as_posix()
            for path in base.rglob("*")
            if path.is_file() and not path.name.startswith(".")
        )

    def _now(self) -> float:
        """The time by the clock of the file system, which need not be this machine's."""
        try:
            with tempfile.NamedTemporaryFile(prefix=_TEMPORARY, dir=self._root) as newest:
                return os.fstat(newest.fileno()).st_mtime
        except OSError:  # who may not write cannot ask it
            return time.time()

    def _open(self, path: str) -> "_OpenFile":
        try:
            return _OpenFile(self.local_path(path))
        except FileNotFoundError as error:
            raise NotFoundError(f"{self.local_path(path)} is not there") from error

    def _keep_open(self, path: str) -> "_OpenFile":
        """Opening costs as much as reading 500 KB; an object that was swept away stays readable here."""
        opened = self._kept_open.pop(path, None) or self._open(path)
        self._kept_open[path] = opened
        while len(self._kept_open) > MAX_OPEN:
            self._kept_open.pop(next(iter(self._kept_open)), None)
        return opened

    @contextlib.contextmanager
    def _temporary(self, target: Path) -> Generator[tuple[BinaryIO, Path]]:
        with named_full_disk(target.parent):
            descriptor, text = _open_in_folder(
                target.parent, lambda: tempfile.mkstemp(prefix=_TEMPORARY, dir=target.parent)
            )
            name = Path(text)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    os.fchmod(file.fileno(), 0o644)
                    yield file, name
            finally:
                name.unlink(missing_ok=True)


def read_descriptor(descriptor: int, offset: int, room: memoryview, seen: Seen | None) -> bool:
    """Fill a buffer from an open file, see `Storage.read_into`; whether it has so many bytes."""
    done, stop = 0, len(room) if seen is None else seen(0)
    while done < len(room):
        taken = os.preadv(descriptor, [room[done:stop]], offset + done)
        if not taken:
            return False
        done += taken
        if seen is not None and done == stop:
            stop = seen(done)
    return True


def _open_in_folder(folder: Path, open_file: Callable[[], Opened]) -> Opened:
    """Open a file in a folder that is made first; `remove` drops empty folders, maybe this one in between."""
    for _ in range(_FOLDER_TRIES):
        with contextlib.suppress(FileNotFoundError):
            folder.mkdir(parents=True, exist_ok=True)
            return open_file()
    folder.mkdir(parents=True, exist_ok=True)
    return open_file()


def _write_whole(file: RawIOBase, piece: bytes | memoryview) -> None:
    left = memoryview(piece)
    while left:
        left = left[file.write(left) or 0 :]


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
