"""Where the bytes of feature shards come from: the storage itself, or a cache on this machine's disk.

Few machines fetch whole shards, a block ahead of where they read; many machines read their own items by
ranges, since whole shards would multiply the traffic by the number of machines.
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

from infra.disk_cache import DiskCache
from infra.storage import LocalStorage, Seen, Storage
from schemas.corpus import ObjectEntry
from schemas.errors import PipelineError
from schemas.stream import CacheConfig

FEW_NODES: Final = 2


@runtime_checkable
class ShardSource(Protocol):
    """Reads ranges of shards."""

    def read_range(self, entry: ObjectEntry, offset: int, length: int) -> bytes:
        """Some bytes of a shard."""
        ...

    def read_into(self, entry: ObjectEntry, offset: int, room: memoryview, seen: Seen | None = None) -> None:
        """Some bytes of a shard into memory; see `Storage.read_into`."""
        ...

    def forget(self, entry: ObjectEntry) -> bool:
        """Drop a copy that proved damaged; whether there was one, and so reading again may help."""
        ...

    def expect(self, entries: Sequence[ObjectEntry]) -> None:
        """Told which shards are read next."""
        ...


class DirectSource:
    """The storage, read by ranges."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def read_range(self, entry: ObjectEntry, offset: int, length: int) -> bytes:
        """See `ShardSource.read_range`."""
        return self._storage.read_range(entry.path, offset, length)

    def read_into(self, entry: ObjectEntry, offset: int, room: memoryview, seen: Seen | None = None) -> None:
        """See `ShardSource.read_into`."""
        self._storage.read_into(entry.path, offset, room, seen)

    def forget(self, entry: ObjectEntry) -> bool:
        """Nothing is kept."""
        return False

    def expect(self, entries: Sequence[ObjectEntry]) -> None:
        """Nothing is fetched before it is asked for."""


class CachedSource:
    """Whole shards on this machine's disk, fetched ahead by a thread."""

    def __init__(self, storage: Storage, cache: DiskCache) -> None:
        self._storage = storage
        self._cache = cache
        self._fetching: threading.Thread | None = None

    def __reduce__(self) -> tuple[type["CachedSource"], tuple[Storage, DiskCache]]:
        return type(self), (self._storage, self._cache)

    def read_range(self, entry: ObjectEntry, offset: int, length: int) -> bytes:
        """See `ShardSource.read_range`."""
        return self._cache.read_range(self._storage, entry, offset, length)

    def read_into(self, entry: ObjectEntry, offset: int, room: memoryview, seen: Seen | None = None) -> None:
        """See `ShardSource.read_into`."""
        self._cache.read_into(self._storage, entry, offset, room, seen)

    def forget(self, entry: ObjectEntry) -> bool:
        """See `ShardSource.forget`."""
        return self._cache.forget(entry)

    def expect(self, entries: Sequence[ObjectEntry]) -> None:
        """Begin to fetch; shards of a block that is still being fetched come first."""
        before = self._fetching
        self._fetching = threading.Thread(target=self._fetch, args=(before, tuple(entries)), daemon=True)
        self._fetching.start()

    def _fetch(self, before: threading.Thread | None, entries: Sequence[ObjectEntry]) -> None:
        if before is not None:
            before.join()
        for entry in entries:
            try:
                self._cache.fetch(self._storage, entry)
            except PipelineError:  # whoever needs the shard will meet the error, and name it
                continue


def open_source(storage: Storage, config: CacheConfig | None, num_nodes: int) -> ShardSource:
    """The source that a configuration asks for.

    Args:
        storage: the corpus.
        config: of the cache; None: there is none.
        num_nodes: machines that read the same corpus for this run.
    """
    if config is None or config.fetch == "items":
        return DirectSource(storage)
    if config.fetch == "auto" and (isinstance(storage, LocalStorage) or num_nodes > FEW_NODES):
        return DirectSource(storage)
    return CachedSource(storage, DiskCache(Path(config.folder), config.max_bytes))
