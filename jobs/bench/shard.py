"""`onetoken bench shard`: shards against tar, Ray against processes, the driver's memory, a second build.

5,000 pictures of 640 pixels. The second build is that of all three stages, with the demo's tower on a part of
the pictures: an encoder that is hundreds of times faster than the true one, which makes it harder to stay
below a hundredth of the first build.
"""

import shutil
import time
from pathlib import Path
from typing import Final

import msgspec

from infra.storage import LocalStorage
from jobs.bench.driver_memory import DriverMemory
from jobs.bench.fresh import run_fresh
from jobs.bench.picture_set import PictureSet, write_picture_set
from jobs.bench.result import Measured, Say
from jobs.bench.shard_rates import measure_engines, measure_serial
from jobs.bench.tree_memory import can_watch_memory
from jobs.demo.encoder import write_demo_encoder
from pipelines.engine import SerialEngine
from pipelines.featurize.flow import featurize
from pipelines.ingest.flow import ingest
from pipelines.shard.flow import shard
from schemas.corpus import Manifest
from schemas.errors import WorkError
from schemas.recipe import Recipe

NUM_PICTURES: Final = 5000
NUM_BUILT: Final = 500
FEW_SHARDS, MANY_SHARDS = 1000, 100_000
BUILD_SHARD_BYTES: Final = 16 << 20
NUM_SECOND_BUILDS: Final = 3


def measure(folder: Path, say: Say, scale: float = 1.0) -> Measured:
    """See `Measure`."""
    say("pictures")
    pictures = write_picture_set(folder, max(20, round(NUM_PICTURES * scale)))
    say("serial sharding against tar and sha256sum")
    serial = measure_serial(pictures, folder)
    say("Ray against processes")
    engines = measure_engines(pictures, folder)
    few, many = (measure_driver(max(10, round(n * scale)), say) for n in (FEW_SHARDS, MANY_SHARDS))
    first_s, second_s = measure_builds(
        write_picture_set(folder / "built", max(5, round(NUM_BUILT * scale))), folder / "built", say
    )
    ratios = {
        "serial_vs_tar_sha256": serial.rival_s / serial.ours_s,
        "ray2_vs_processes2": engines.ray / engines.processes,
        "driver_growth": many.peak_bytes / max(1, few.peak_bytes),
        "rerun_unchanged": second_s / first_s,
    }
    not_measured = () if can_watch_memory() else ("driver_growth",)
    for key in not_measured:
        del ratios[key]
    details = {
        "num_pictures": len(pictures.names),
        "picture_bytes": pictures.num_bytes / len(pictures.names),
        "serial_cpu_us_per_picture": serial.ours_s / len(pictures.names) * 1e6,
        "tar_sha256_cpu_us_per_picture": serial.rival_s / len(pictures.names) * 1e6,
        "ray_units_per_s": engines.ray,
        "processes_units_per_s": engines.processes,
        "driver_peak_mib_few": few.peak_bytes / 2**20,
        "driver_peak_mib_many": many.peak_bytes / 2**20,
        "num_shards_many": many.num_shards,
        "plan_many_s": many.plan_s,
        "dispatch_many_s": many.run_s,
        "first_build_s": first_s,
        "second_build_s": second_s,
    }
    return Measured(ratios=ratios, details=details, not_measured=not_measured)


def measure_driver(num_shards: int, say: Say) -> DriverMemory:
    """Memory of a driver in a fresh process."""
    say(f"a driver of {num_shards} shards")
    answer = run_fresh("jobs.bench.driver_memory", [str(num_shards)]).answer
    return msgspec.json.decode(answer, type=DriverMemory)


def measure_builds(pictures: PictureSet, folder: Path, say: Say) -> tuple[float, float]:
    """Wall time of a build and, the median of some, of the same build again.

    Raises:
        WorkError: when the second build did something.
    """
    encoder, storage = folder / "encoder", LocalStorage(folder / "corpus")
    shutil.rmtree(storage.url, ignore_errors=True)
    write_demo_encoder(encoder, seed=0)
    recipe = pictures.recipe(BUILD_SHARD_BYTES, encoder)
    say(f"a build of {len(pictures.names)} pictures, then the same again")
    first_s, first = _build(recipe, storage)
    again = [_build(recipe, storage) for _ in range(NUM_SECOND_BUILDS)]
    if any(manifest != first for _, manifest in again):
        raise WorkError("the second build gave another corpus")
    return first_s, sorted(seconds for seconds, _ in again)[NUM_SECOND_BUILDS // 2]


def _build(recipe: Recipe, storage: LocalStorage) -> tuple[float, Manifest]:
    start_s = time.perf_counter()
    ingest(recipe, storage, SerialEngine())
    shard(recipe, storage, SerialEngine())
    _, manifest = featurize(recipe, storage, SerialEngine())
    return time.perf_counter() - start_s, manifest
