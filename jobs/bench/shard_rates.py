"""How fast pictures become sample shards: against tar and sha256sum, and on Ray against child processes.

Serial sharding is the stage whole: rows read and fingerprinted, each picture read and checked against its
digest, the tar written, hashed, stored and committed. The rival is GNU tar into a file and sha256sum of the
pictures. Both are measured in CPU time, children included, and take turns; the first round, which also warms
the page cache, does not count.

Engines are measured by wall time, for part of their work is in other processes: units a second from the
moment in which workers have finished a few, so that neither Ray's start nor that of the workers counts.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from infra.ray_cluster import ray_cluster
from infra.storage import LocalStorage
from jobs.bench.picture_set import PictureSet
from pipelines.engine import Engine, SerialEngine
from pipelines.ingest.flow import ingest
from pipelines.ingest.media.reader import locate_media
from pipelines.process_engine import ProcessesEngine
from pipelines.ray_engine import RayEngine
from pipelines.shard.flow import shard
from pipelines.shard.tables import tables_of
from pipelines.shard.write import ShardWorker
from schemas.corpus import Manifest
from schemas.errors import WorkError
from schemas.recipe import Recipe

NUM_ROUNDS: Final = 3
NUM_WORKERS: Final = 2
SERIAL_SHARD_BYTES: Final = 256 << 20
NUM_ENGINE_SHARDS: Final = 24
"""At least; a prefix tree makes up to twice as many."""


@dataclass(frozen=True, slots=True)
class SerialRate:
    """Medians of CPU time."""

    ours_s: float
    rival_s: float


@dataclass(frozen=True, slots=True)
class EngineRates:
    """Medians of units a second, both with two warm workers."""

    ray: float
    processes: float


@dataclass(frozen=True, slots=True)
class _Ingested:
    """A corpus that is ingested and not sharded; copies of it are."""

    recipe: Recipe
    storage: LocalStorage
    manifest: Manifest

    def copy(self, root: Path) -> LocalStorage:
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(self.storage.url, root)
        return LocalStorage(root)


def measure_serial(pictures: PictureSet, folder: Path) -> SerialRate:
    """The serial engine against tar and sha256sum.

    Raises:
        WorkError: when the pictures are not all in the shards.
    """
    ingested = _ingest(pictures, folder / "serial", SERIAL_SHARD_BYTES)
    names = folder / "names"
    names.write_text("\n".join(pictures.names) + "\n")

    def ours() -> None:
        done = shard(ingested.recipe, storage, SerialEngine())
        if sum(entry.tar.num_rows for entry in done.shards) != len(pictures.names):
            raise WorkError("not all pictures are in the shards; nothing was compared")

    def rival() -> None:
        _run("tar", "cf", str(folder / "rival.tar"), "-C", str(pictures.root), "-T", str(names))
        _run("xargs", "-a", str(names), "sha256sum", cwd=pictures.root)

    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(NUM_ROUNDS + 1):
        storage = ingested.copy(folder / "copy")
        for act, taken in zip((ours, rival), times, strict=True):
            taken.append(_count_cpu_s(act))
    shutil.rmtree(folder / "copy")
    return SerialRate(median(times[0][1:]), median(times[1][1:]))


def measure_engines(pictures: PictureSet, folder: Path) -> EngineRates:
    """Ray with two workers against child processes with two, in turn."""
    ingested = _ingest(pictures, folder / "engines", pictures.num_bytes // NUM_ENGINE_SHARDS)
    rates: tuple[list[float], list[float]] = ([], [])
    with ray_cluster(num_cpus=NUM_WORKERS), ProcessesEngine(NUM_WORKERS) as processes:
        for _ in range(NUM_ROUNDS):
            for engine, found in zip((RayEngine(NUM_WORKERS), processes), rates, strict=True):
                found.append(_count_units_per_s(engine, ingested, folder / "copy"))
    shutil.rmtree(folder / "copy")
    return EngineRates(median(rates[0]), median(rates[1]))


def _count_units_per_s(engine: Engine, ingested: _Ingested, root: Path) -> float:
    storage = ingested.copy(root)
    sources = locate_media(ingested.recipe.sources, Path.cwd())
    worker = ShardWorker(storage, tables_of(ingested.manifest), sources)
    start_s, num_before = 0.0, 2 * NUM_WORKERS
    for number, _ in enumerate(engine.run(worker, ingested.manifest.plan), start=1):
        if number == num_before:
            start_s = time.perf_counter()
    return (len(ingested.manifest.plan) - num_before) / (time.perf_counter() - start_s)


def _ingest(pictures: PictureSet, root: Path, max_bytes: int) -> _Ingested:
    shutil.rmtree(root, ignore_errors=True)
    recipe, storage = pictures.recipe(max_bytes), LocalStorage(root)
    return _Ingested(recipe, storage, ingest(recipe, storage, SerialEngine()).manifest)


def _count_cpu_s(act: Callable[[], None]) -> float:
    before = os.times()
    act()
    after = os.times()
    return sum(after[:4]) - sum(before[:4])


def _run(*command: str, cwd: Path | None = None) -> None:
    subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - our arguments
