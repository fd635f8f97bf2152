"""`onetoken bench read`: feature shards from the page cache into one batch, against cat and other readers.

All sides read the same tars, in order, and take turns; CPU time of one thread, medians, the first turn not
counted. `cat` is the command of that name, its output thrown away. Ours reads items of five int8 views by
the index, four at a time, into memory that is there already; with checksums, every byte of every item is
checked as well. webdataset, which checks nothing, yields bytes that are copied into the same memory.

litdata and MDS hold the same items their way and are read the same way, in processes of their own
environment (`jobs.bench.peers`), where there is one.

The tars are larger than the processor's caches. What one view of five costs is counted in bytes that were
asked of the storage.
"""

import hashlib
import resource
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final, cast

import webdataset

from infra.storage import LocalStorage, Seen
from jobs.bench.feature_corpus import SUFFIX, FeatureCorpus, write_feature_corpus
from jobs.bench.peers.peer import PEERS, opened_peers
from jobs.bench.result import Measured, Say
from pipelines.stream.item_room import ItemRoom
from pipelines.stream.reader import FeatureReader
from schemas.errors import WorkError

NUM_SHARDS: Final = 2
ITEMS_PER_SHARD: Final = 64
ITEMS_PER_BATCH: Final = 4
NUM_ROUNDS: Final = 9
RIVAL_ROUNDS: Final = 3
"""Of webdataset, which takes long."""


def measure(folder: Path, say: Say, scale: float = 1.0) -> Measured:
    """See `Measure`."""
    say("a cache to read")
    corpus = write_feature_corpus(folder / "features", NUM_SHARDS, max(2, round(ITEMS_PER_SHARD * scale)))
    say("reading")
    tars = corpus.list_tars()
    num_bytes = sum(path.stat().st_size for path in tars)
    reader = FeatureReader(corpus.storage, corpus.manifest, corpus.spec)
    batches = _cut(corpus.keys, ITEMS_PER_BATCH)
    room = ItemRoom(2 * ITEMS_PER_BATCH * num_bytes // len(corpus.keys))
    digest = hashlib.sha256(b"".join(map(bytes, reader.fetch(corpus.keys, ItemRoom(num_bytes)))))
    with opened_peers(tars, ITEMS_PER_BATCH, digest.hexdigest()) as peers:
        sides: dict[str, Callable[[], float]] = {
            "cat": lambda: count_cpu_s(lambda: _print_all(tars)),
            "ours": lambda: count_cpu_s(lambda: read_items(reader, batches, room, is_checked=False)),
            "ours_checksum": lambda: count_cpu_s(lambda: read_items(reader, batches, room, is_checked=True)),
            "webdataset": lambda: count_cpu_s(lambda: read_by_rival(tars, batches, room)),
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


def read_items(
    reader: FeatureReader,
    batches: Sequence[Sequence[tuple[str, str]]],
    room: ItemRoom,
    *,
    is_checked: bool,
) -> int:
    """Ours: batch after batch into the room; how many items there were."""
    read = reader.fetch_checked if is_checked else reader.fetch
    return sum(len(read(batch, room)) for batch in batches)


def read_by_rival(tars: Sequence[Path], batches: Sequence[Sequence[tuple[str, str]]], room: ItemRoom) -> int:
    """Theirs: the same bytes into the same room.

    Raises:
        WorkError: when it does not give all items.
    """
    samples = iter(cast("Any", webdataset).WebDataset([str(path) for path in tars], shardshuffle=False))
    num_items = 0
    for batch in batches:
        room.clear()
        for (_, key), sample in zip(batch, samples, strict=False):
            data = cast("bytes", sample[SUFFIX.removeprefix(".")])
            room.take(len(data))[:] = data
            num_items += sample["__key__"] == key
    if num_items != sum(map(len, batches)):
        raise WorkError("webdataset gave other items; nothing was compared")
    return num_items


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


def _cut(keys: Sequence[tuple[str, str]], size: int) -> list[Sequence[tuple[str, str]]]:
    return [keys[start : start + size] for start in range(0, len(keys), size)]
