"""A cache of whole objects: checked, bounded, shared by processes, and rid of what dead writers left."""

import io
import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from infra.disk_cache import DiskCache
from infra.storage import LocalStorage
from schemas.corpus import ObjectEntry
from schemas.digest import sha256_hex
from schemas.errors import ConfigError, CorruptError


class CountingStorage(LocalStorage):
    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.num_reads = 0

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        self.num_reads += 1
        return super().read_range(path, offset, length)


def put(storage: LocalStorage, number: int, size: int = 1000) -> ObjectEntry:
    data = bytes([number]) * size
    path = f"features/x/image-{number}-{sha256_hex(data)[:16]}.tar"
    storage.put(path, io.BytesIO(data))
    return ObjectEntry(path=path, sha256=sha256_hex(data), num_bytes=size, num_rows=1)


@pytest.fixture
def storage(tmp_path: Path) -> CountingStorage:
    return CountingStorage(tmp_path / "corpus")


def sizes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def test_an_object_is_fetched_once_and_the_longest_unused_goes(
    storage: CountingStorage, tmp_path: Path
) -> None:
    cache = DiskCache(tmp_path / "cache", 2500)
    entries = [put(storage, number) for number in range(3)]
    for entry in (entries[0], entries[1], entries[0]):
        assert cache.read_range(storage, entry, 10, 5) == bytes([entries.index(entry)]) * 5
    assert storage.num_reads == 2
    cache.read_range(storage, entries[2], 0, 1)
    assert sizes(tmp_path / "cache") == 2000
    assert storage.num_reads == 3
    cache.read_range(storage, entries[0], 0, 1)
    assert storage.num_reads == 3
    cache.read_range(storage, entries[1], 0, 1)
    assert storage.num_reads == 4


def test_other_bytes_are_refused_and_leave_nothing(storage: CountingStorage, tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "cache", 2500)
    entry = put(storage, 1)
    storage.local_path(entry.path).write_bytes(b"2" * 1000)
    with pytest.raises(CorruptError, match="does not hold the bytes"):
        cache.fetch(storage, entry)
    assert sizes(tmp_path / "cache") == 0
    with pytest.raises(ConfigError, match="the whole cache"):
        cache.fetch(storage, put(storage, 3, 2501))


def test_what_a_dead_writer_left_makes_room(storage: CountingStorage, tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "cache", 2500)
    (tmp_path / "cache/.fetching-image-9.tar").write_bytes(bytes(2400))
    cache.fetch(storage, put(storage, 1))
    assert sizes(tmp_path / "cache") == 1000


def test_what_is_forgotten_is_fetched_again(storage: CountingStorage, tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "cache", 2500)
    entry = put(storage, 1)
    cache.fetch(storage, entry).write_bytes(b"damaged".ljust(1000))
    assert cache.forget(entry)
    assert not cache.forget(entry)
    assert cache.read_range(storage, entry, 0, 2) == b"\x01\x01"


def _read_all(folder: Path, cache: Path, entries: list[ObjectEntry], answers: Any) -> None:
    storage = CountingStorage(folder)
    opened = DiskCache(cache, 5000)
    right = all(
        opened.read_range(storage, entry, 0, 1000) == bytes([number]) * 1000
        for _ in range(5)
        for number, entry in enumerate(entries)
    )
    answers.put((right, storage.num_reads))


def test_processes_share_it(storage: CountingStorage, tmp_path: Path) -> None:
    entries = [put(storage, number) for number in range(4)]
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    processes = [
        context.Process(target=_read_all, args=(tmp_path / "corpus", tmp_path / "cache", entries, answers))
        for _ in range(2)
    ]
    for process in processes:
        process.start()
    found = [answers.get(timeout=300) for _ in processes]
    for process in processes:
        process.join(60)
    assert all(right for right, _ in found)
    assert sum(num_reads for _, num_reads in found) == len(entries)
