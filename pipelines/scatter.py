"""Rows that change hands: what one unit writes for many others, and one unit reads from many.

A stage that sorts or joins more than fits in memory does it by buckets: each unit of the stage before
writes one scratch object with a blob for every bucket, and a unit of the next stage reads its blob from
every object. Blobs are opaque here.

Nothing of this is part of a corpus: scratch objects lie under a folder of the run and are removed when it is
done. Those of a run that was killed are removed by the next run on the same machine, or by `onetoken gc`.
"""

import contextlib
import os
import socket
import uuid
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from infra.storage import Storage
from schemas.digest import SHORT, sha256_hex

SCRATCH: Final = "scratch"
REMOVALS_AT_ONCE: Final = 8


@dataclass(frozen=True, slots=True)
class Scattered:
    """One scratch object: where the blob of each bucket begins and ends."""

    path: str
    bounds: tuple[int, ...]


def scatter(storage: Storage, path: str, blobs: Iterable[bytes | memoryview]) -> Scattered:
    """Write a blob for every bucket, as they come; if all are empty there is no object."""
    bounds = [0]

    def pieces() -> Iterator[bytes | memoryview]:
        for blob in blobs:
            bounds.append(bounds[-1] + len(blob))
            yield blob

    storage.write_scratch(path, pieces())
    if not bounds[-1]:
        storage.remove(path)
    return Scattered(path, tuple(bounds))


def read_blob(storage: Storage, scattered: Scattered, bucket: int) -> bytes:
    """The blob of one bucket."""
    start, end = scattered.bounds[bucket : bucket + 2]
    return storage.read_range(scattered.path, start, end - start) if end > start else b""


def read_blobs(storage: Storage, scattered: Scattered) -> list[bytes]:
    """The blobs of all buckets, read at once."""
    bounds = scattered.bounds
    data = storage.read_range(scattered.path, 0, bounds[-1]) if bounds[-1] else b""
    return [data[start:end] for start, end in pairwise(bounds)]


def gather(storage: Storage, objects: Iterable[Scattered], bucket: int) -> Iterator[tuple[int, bytes]]:
    """The blobs of one bucket that are not empty, each with the place of its object."""
    for place, scattered in enumerate(objects):
        if blob := read_blob(storage, scattered, bucket):
            yield place, blob


@contextlib.contextmanager
def scratch_folder(storage: Storage) -> Generator[str]:
    """A folder for scratch objects, gone when the block is left; those of dead runs of this machine, too."""
    _sweep(storage)
    run = f"{_machine()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    try:
        yield f"{SCRATCH}/{run}"
    finally:
        _remove(storage, run)


def _sweep(storage: Storage) -> None:
    runs = {path.split("/")[1] for path in storage.list(SCRATCH)}
    for run in runs:
        machine, process, *_ = [*run.split("-"), "", ""]
        if machine == _machine() and process.isdecimal() and not _is_alive(int(process)):
            _remove(storage, run)


def _remove(storage: Storage, run: str) -> None:
    """All at once: a file system takes a second for each gigabyte, a store milliseconds for each request."""
    with ThreadPoolExecutor(REMOVALS_AT_ONCE) as pool:
        for _ in pool.map(storage.remove, storage.list(f"{SCRATCH}/{run}")):
            pass


def _machine() -> str:
    """A name for this machine that tells nothing about it."""
    return sha256_hex(f"{socket.gethostname()} {uuid.getnode()}".encode())[:SHORT]


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
