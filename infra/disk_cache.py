"""Objects of a remote corpus on a local disk: whole, checked, bounded, shared by a machine's processes.

An object is fetched in pieces under a name of its own, hashed on the way, and renamed when it is whole and
its digest is right: what lies under its name was right once. One process fetches it, others wait (`flock`).
Room is made before a byte comes: the unfinished file has its full size at once, so that the bound holds at
every moment; the longest unused objects go first. Whoever has an object open keeps it, and one that was
removed between look-up and opening is fetched again. A file whose writer died is known by its free lock.

Costs sha256 of every byte that is fetched, about 2 s a GB on one core. Leaves out: network file systems
without `flock`; damage to a file that lies here already, which its reader notices (`forget`).
"""

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO, Final

from infra.space import named_full_disk
from infra.storage import Seen, Storage, read_descriptor
from schemas.corpus import ObjectEntry
from schemas.errors import ConfigError, CorruptError, WorkError

PIECE_BYTES: Final = 16 << 20
_UNFINISHED: Final = ".fetching-"
_LOCKS: Final = ".locks"
_TRIES: Final = 100


class DiskCache:
    """A folder of objects, named as they are in their corpus."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder.absolute()
        self._max_bytes = max_bytes
        (self._folder / _LOCKS).mkdir(parents=True, exist_ok=True)

    def read_range(self, storage: Storage, entry: ObjectEntry, offset: int, length: int) -> bytes:
        """Some bytes of an object, which is fetched whole when it is not there.

        Raises:
            CorruptError: when the object is not what was written, or ends before.
            ConfigError: when it is larger than the cache.
        """
        room = bytearray(length)
        self.read_into(storage, entry, offset, memoryview(room))
        return bytes(room)

    def read_into(
        self, storage: Storage, entry: ObjectEntry, offset: int, room: memoryview, seen: Seen | None = None
    ) -> None:
        """The same into memory; see `Storage.read_into`.

        Raises:
            CorruptError: when the object is not what was written, or ends before.
            ConfigError: when it is larger than the cache.
        """
        with self._opened(storage, entry) as file:
            if not read_descriptor(file.fileno(), offset, room, seen):
                raise CorruptError(f"{file.name} ends before byte {offset + len(room)}; delete it")

    def fetch(self, storage: Storage, entry: ObjectEntry) -> Path:
        """See that an object is there, and where.

        Raises:
            CorruptError: when it is not what was written.
            ConfigError: when it is larger than the cache.
        """
        target = self._folder / entry.path.rpartition("/")[2]
        if self._use(target):
            return target
        if entry.num_bytes > self._max_bytes:
            raise ConfigError(
                f"{entry.path} takes {entry.num_bytes} bytes, the whole cache {self._max_bytes}; raise "
                "`cache.max_bytes`"
            )
        with self._locked(target.name):
            if not self._use(target):
                self._fetch(storage, entry, target)
        return target

    def forget(self, entry: ObjectEntry) -> bool:
        """Drop an object; whether it was there."""
        try:
            (self._folder / entry.path.rpartition("/")[2]).unlink()
        except FileNotFoundError:
            return False
        return True

    def _opened(self, storage: Storage, entry: ObjectEntry) -> BinaryIO:
        for _ in range(_TRIES):
            with contextlib.suppress(FileNotFoundError):  # removed this moment, to make room
                return self.fetch(storage, entry).open("rb", buffering=0)
        raise WorkError(
            f"{self._folder} is too small for all that is read at a time; raise `cache.max_bytes`"
        )

    def _use(self, target: Path) -> bool:
        """Whether an object is there; if so, it was used now."""
        now = time.time_ns()
        try:
            os.utime(target, ns=(now, now))  # the system's own stamp is too coarse to tell what came first
        except FileNotFoundError:
            return False
        return True

    def _fetch(self, storage: Storage, entry: ObjectEntry, target: Path) -> None:
        name = self._folder / f"{_UNFINISHED}{target.name}"
        with named_full_disk(self._folder), self._reserve(name, entry.num_bytes) as file:
            digest = hashlib.sha256()
            for offset in range(0, entry.num_bytes, PIECE_BYTES):
                size = min(PIECE_BYTES, entry.num_bytes - offset)
                piece = storage.read_range(entry.path, offset, size)
                digest.update(piece)
                file.write(piece)
            if digest.hexdigest() != entry.sha256:
                raise CorruptError(f"{storage.url}/{entry.path} does not hold the bytes that were written")
            file.flush()
            name.replace(target)

    @contextlib.contextmanager
    def _reserve(self, name: Path, num_bytes: int) -> Generator[BinaryIO]:
        """An unfinished file of full size, locked as long as its writer lives."""
        with self._locked("room"):
            self._make_room(num_bytes)
            file = name.open("wb")
            fcntl.flock(file, fcntl.LOCK_EX)
            file.truncate(num_bytes)
        try:
            with file:
                yield file
        finally:
            name.unlink(missing_ok=True)

    def _make_room(self, num_bytes: int) -> None:
        """Remove what dead writers left, then the longest unused objects, until so many bytes fit."""
        found: list[tuple[float, int, Path]] = []
        total = 0
        for path in sorted(self._folder.iterdir()):
            with contextlib.suppress(FileNotFoundError):
                if not path.is_file() or (path.name.startswith(_UNFINISHED) and _remove_dead(path)):
                    continue
                state = path.stat()
                total += state.st_size
                if not path.name.startswith(_UNFINISHED):
                    found.append((state.st_mtime, state.st_size, path))
        for _, size, path in sorted(found):
            if total + num_bytes <= self._max_bytes:
                return
            path.unlink(missing_ok=True)
            total -= size

    @contextlib.contextmanager
    def _locked(self, name: str) -> Generator[None]:
        with (self._folder / _LOCKS / name).open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _remove_dead(path: Path) -> bool:
    """Remove an unfinished file that nobody writes."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    path.unlink(missing_ok=True)
    return True
