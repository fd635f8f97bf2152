"""The stream against a bare reader of the same items in the same order: on disk, and on S3.

Int8 items of five views, in page cache; one example an item. Both sides are one thread that checks what it
reads and decodes nothing, opened before; the stream keeps the texts of half of its shards, so that it reads
texts in every turn. On disk the bare side is the cache's reader without texts, order or examples, told which
items stand in which micro-batch. On S3 it is one ranged read for each item, at a place that is known, and
nothing more. CPU time of this process, medians, taking turns: what the server takes is its own.
"""

import contextlib
import io
import os
import resource
from collections.abc import Callable, Generator, Sequence
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Final

from infra import ceph, s3_server
from infra.storage import Storage, open_storage
from infra.tar import read_index
from jobs.bench.feature_corpus import SUFFIX, FeatureCorpus, write_feature_corpus
from jobs.bench.result import Say
from pipelines.commit import read_object
from pipelines.stream.reader import FeatureReader
from pipelines.stream.stream import FeatureStream
from schemas.errors import WorkError
from schemas.stream import DataConfig

NUM_SHARDS: Final = 4
ITEMS_PER_SHARD: Final = 32
NUM_ROUNDS: Final = 7
DATA: Final = DataConfig(batch=16, micro_batch=4, views="all", threads=0, shards_per_block=1)
BUCKET: Final = "onetoken-bench"

Batches = Sequence[Sequence[tuple[str, str]]]
"""Shard and key of the items of each micro-batch."""


def measure_rates(folder: Path, say: Say, scale: float) -> dict[str, float]:
    """Seconds of CPU time by side; those on S3 are missing where no S3 server is installed."""
    say("a cache to stream from")
    corpus = write_feature_corpus(folder / "streamed", NUM_SHARDS, max(4, round(ITEMS_PER_SHARD * scale)))
    say("streaming")
    stream = open_bench_stream(corpus, corpus.storage)
    batches = list_batches(stream)
    reader = FeatureReader(corpus.storage, corpus.manifest, corpus.spec)
    times = take_turns(
        {
            "stream": lambda: count_streamed(stream),
            "reader": lambda: sum(len(reader.read_features(batch)) for batch in batches),
        }
    )
    if ceph.missing_programs():
        return times
    with serve_corpus(corpus, folder / "s3") as storage:
        say("streaming from S3")
        remote, ranges = open_bench_stream(corpus, storage), list_ranges(corpus, batches)
        times |= take_turns(
            {
                "s3_stream": lambda: count_streamed(remote),
                "s3_ranged": lambda: sum(len(storage.read_range(*one)) == one[2] for one in ranges),
            }
        )
    return times


def open_bench_stream(corpus: FeatureCorpus, storage: Storage) -> FeatureStream:
    """One epoch of the corpus."""
    return FeatureStream(storage, corpus.manifest, corpus.spec, DATA, seed=0, num_epochs=1)


def list_batches(stream: FeatureStream) -> Batches:
    """What the stream reads, in its order."""
    places = {
        int(row): (
            stream.catalog.shards[stream.catalog.shard_of(int(row))].name,
            stream.loader.read_text(int(row)).item_key,
        )
        for row in range(len(stream.catalog.table.ids))
    }
    plan = stream.walk.plan(0)
    return [
        [places[int(row)] for row in unit.rows]
        for step in range(plan.num_steps)
        for unit in plan.step_units(step)
    ]


def count_streamed(stream: FeatureStream) -> int:
    """Ours: an epoch of the stream, from its first step to its last; how many examples there were."""
    stream.load_state_dict(stream.state_dict() | {"epoch": 0, "step": 0})
    return sum(len(batch) for step in stream for batch in step)


def list_ranges(corpus: FeatureCorpus, batches: Batches) -> list[tuple[str, int, int]]:
    """Where the items of the batches lie: path, offset, length."""
    ranges: dict[str, tuple[str, int, int]] = {}
    for shard in corpus.manifest.features[corpus.spec].shards:
        for member in read_index(read_object(corpus.storage, shard.index)):
            ranges[member.name] = (shard.tar.path, member.offset, member.size)
    return [ranges[f"{key}{SUFFIX}"] for batch in batches for _, key in batch]


@contextlib.contextmanager
def serve_corpus(corpus: FeatureCorpus, folder: Path) -> Generator[Storage]:
    """The corpus on an S3 server of this machine, for as long as the block runs."""
    from infra.s3_client import connect

    endpoint = s3_server.start(folder, is_temporary=True)
    before = dict(os.environ)
    os.environ.update(endpoint.environment)
    try:
        connect().call_s3("create_bucket", Bucket=BUCKET)
        storage = open_storage(f"s3://{BUCKET}/streamed")
        for entry in corpus.manifest.list_objects():
            storage.put(entry.path, io.BytesIO(corpus.storage.read_bytes(entry.path)))
        yield storage
    finally:
        os.environ.clear()
        os.environ.update(before)
        s3_server.stop(folder)


def take_turns(sides: dict[str, Callable[[], int]]) -> dict[str, float]:
    """Median CPU time of each side; the first turn is not counted.

    Raises:
        WorkError: when sides read different numbers of items.
    """
    times: dict[str, list[float]] = {name: [] for name in sides}
    counts: set[int] = set()
    for _ in range(NUM_ROUNDS + 1):
        for name, act in sides.items():
            started_s = _read_clock()
            counts.add(act())
            times[name].append(_read_clock() - started_s)
    if len(counts) != 1:
        raise WorkError(f"the sides read {sorted(counts)} items; nothing was compared")
    return {name: median(islice(taken, 1, None)) for name, taken in times.items()}


def _read_clock() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
