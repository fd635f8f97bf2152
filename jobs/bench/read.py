"""`onetoken bench read`: feature shards from the page cache into one batch, against cat and other readers.

All sides read the same tars, in order, and take turns; CPU time of one thread, medians, the first turn not
counted. `cat` is the command of that name, its output thrown away. Ours, with checksums, is what training
reads by: items of five int8 views, four at a time, into memory that was used before, every byte checked and
the headers opened. Without checksums there is no such reader: what remains of it when nothing is checked or
opened is put together here. webdataset, which checks nothing, yields bytes that are copied into such memory.
Among the details stands plain reading, a batch's bytes at a time into one buffer: nothing that reads into
memory is faster, and `cat` is, whose buffer never leaves the processor's caches.

litdata and MDS hold the same items their way and are read the same way, in processes of their own
environment (`jobs.bench.peers`), where there is one.

The tars are larger than the processor's caches. What one view of five costs is counted in bytes that were
asked of the storage.
"""

import hashlib
import resource
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final, cast

import webdataset

from infra.storage import LocalStorage, Seen
from jobs.bench.feature_corpus import SUFFIX, FeatureCorpus, write_feature_corpus
from jobs.bench.peers.peer import PEERS, opened_peers
from jobs.bench.result import Measured, Say
from pipelines.stream.reader import FeatureReader
from pipelines.stream.shard_indexes import ShardIndexes
from pipelines.stream.spans import join_spans
from pipelines.stream.used_rooms import UsedRooms
from schemas.errors import WorkError

NUM_SHARDS: Final = 2
ITEMS_PER_SHARD: Final = 64
ITEMS_PER_BATCH: Final = 4
NUM_ROUNDS: Final = 9
RIVAL_ROUNDS: Final = 3
"""Of webdataset, which takes long."""

Batches = Sequence[Sequence[tuple[str, str]]]
"""Shard and key of the items of each batch."""


def measure(folder: Path, say: Say, scale: float = 1.0) -> Measured:
    """See `Measure`."""
    say("a cache to read")
    corpus = write_feature_corpus(folder / "features", NUM_SHARDS, max(2, round(ITEMS_PER_SHARD * scale)))
    say("reading")
    tars = corpus.list_tars()
    num_bytes = sum(path.stat().st_size for path in tars)
    reader = FeatureReader(corpus.storage, corpus.manifest, corpus.spec)
    batches = _cut(corpus.keys, ITEMS_PER_BATCH)
    bare, rooms = UncheckedReader(corpus), UsedRooms()
    digest = hashlib.sha256()
    for batch in bare.read(batches):
        for item in batch:
            digest.update(item)
    with opened_peers(tars, ITEMS_PER_BATCH, digest.hexdigest()) as peers:
        sides: dict[str, Callable[[], float]] = {
            "cat": lambda: count_cpu_s(lambda: _print_all(tars)),
            "plain": lambda: count_cpu_s(lambda: read_plainly(tars, num_bytes // len(batches))),
            "ours": lambda: count_cpu_s(lambda: sum(map(len, bare.read(batches)))),
            "ours_checksum": lambda: count_cpu_s(
                lambda: sum(len(reader.read_features(batch)) for batch in batches)
            ),
            "webdataset": lambda: count_cpu_s(lambda: sum(map(len, read_by_rival(tars, batches, rooms)))),
            **{name: peer.read for name, peer in peers.items()},
        }
        times = _take_turns(sides, {"webdataset": RIVAL_ROUNDS})
    ratios = {
        "vs_cat": times["cat"] / times["ours"],
        "vs_cat_checksum": times["cat"] / times["ours_checksum"],
        "vs_webdataset": times["webdataset"] / times["ours"],
        "one_of_five_bytes": measure_one_of_five(corpus),
        **{f"vs_{name}": times[name] / times["ours"] for name in peers},
    }
    details = {f"{name}_gb_per_s": num_bytes / seconds / 1e9 for name, seconds in times.items()}
    return Measured(
        ratios=ratios,
        details=details | {"num_bytes": num_bytes},
        not_measured=tuple(f"vs_{name}" for name in PEERS if name not in peers),
    )


def read_plainly(tars: Sequence[Path], num_bytes: int) -> int:
    """So many bytes at a time into one buffer; how many bytes there were."""
    buffer, total = memoryview(bytearray(num_bytes)), 0
    for path in tars:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                total += count
    return total


class UncheckedReader:
    """Whole items, batch after batch, by the parts that training reads with: neighbors in one go."""

    def __init__(self, corpus: FeatureCorpus) -> None:
        self._storage = corpus.storage
        self._indexes = ShardIndexes(
            corpus.storage, corpus.manifest.features[corpus.spec].shards, corpus.spec
        )
        self._rooms = UsedRooms()

    def read(self, batches: Batches) -> Iterator[list[memoryview]]:
        """The bytes of each batch, which is gone when the next one is asked for."""
        for batch in batches:
            yield self._read_batch(batch)

    def _read_batch(self, batch: Sequence[tuple[str, str]]) -> list[memoryview]:
        items: list[memoryview] = []
        for span in join_spans(self._indexes.find(shard, key) for shard, key in batch):
            data = self._rooms.take(span.num_bytes)
            self._storage.read_into(span.shard.tar.path, span.offset, data)
            items += span.cut(data)
        return items


def read_by_rival(tars: Sequence[Path], batches: Batches, rooms: UsedRooms) -> Iterator[list[memoryview]]:
    """Theirs: the same bytes into such memory.

    Raises:
        WorkError: when it gives other items.
    """
    opened = cast("Any", webdataset).WebDataset([str(path) for path in tars], shardshuffle=False)
    samples: Iterator[dict[str, Any]] = iter(opened)
    for batch in batches:
        yield [_copy_sample(next(samples, None), key, rooms) for _, key in batch]


def _copy_sample(sample: dict[str, Any] | None, key: str, rooms: UsedRooms) -> memoryview:
    if sample is None or sample["__key__"] != key:
        raise WorkError("webdataset gave other items; nothing was compared")
    data = cast("bytes", sample[SUFFIX.removeprefix(".")])
    room = rooms.take(len(data))
    room[:] = data
    return room


def measure_one_of_five(corpus: FeatureCorpus) -> float:
    """Bytes asked of the storage for the whole picture alone, by those for all five views."""
    storage = _CountingStorage(Path(corpus.storage.url))
    reader = FeatureReader(storage, corpus.manifest, corpus.spec)
    counts: list[int] = []
    for views in ("whole", "all"):
        storage.num_bytes = 0
        for shard, key in corpus.keys[:ITEMS_PER_BATCH]:
            reader.read_item(key, shard=shard, views=views)
        counts.append(storage.num_bytes)
    return counts[0] / counts[1]


class _CountingStorage(LocalStorage):
    """Counts what is read of tars."""

    num_bytes = 0

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        self.num_bytes += length
        return super().read_range(path, offset, length)

    def read_into(self, path: str, offset: int, room: memoryview, seen: Seen | None = None) -> None:
        self.num_bytes += len(room)
        super().read_into(path, offset, room, seen)


def _print_all(tars: Sequence[Path]) -> None:
    subprocess.run(["cat", *tars], stdout=subprocess.DEVNULL, check=True)  # noqa: S603, S607


def _take_turns(sides: dict[str, Callable[[], float]], fewer: dict[str, int]) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(NUM_ROUNDS + 1):
        for name, measure_s in sides.items():
            if turn <= fewer.get(name, NUM_ROUNDS):
                times[name].append(measure_s())
    return {name: median(taken[1:]) for name, taken in times.items()}


def count_cpu_s(act: Callable[[], object]) -> float:
    """Of this process and its children."""
    before = _read_clocks()
    act()
    return _read_clocks() - before


def _read_clocks() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _cut(keys: Sequence[tuple[str, str]], size: int) -> Batches:
    return [keys[start : start + size] for start in range(0, len(keys), size)]
