"""How fast small media are probed, against reading and hashing them and nothing else.

Both sides run in the same two workers, each on half of the files at a time, in turn, so that load of others
meets both. Measured is the CPU time of the worker. Ours is the unit of ingest whole: requests unpacked, paths
resolved, header facts read, findings packed and cached. The first round, which also warms the page cache, is
not counted.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Final

from infra.storage import Storage, open_storage
from jobs.bench.small_files import write_small_files
from pipelines.engine import run_in_order
from pipelines.ingest.asked import MediaNames, unpack_asked
from pipelines.ingest.media.reader import MediaSource
from pipelines.ingest.probe import AskingRange, ProbeWorker
from pipelines.ingest.probe_cache import ProbeCache
from pipelines.process_engine import ProcessesEngine
from pipelines.scatter import Scattered, read_blob, scatter
from schemas.errors import WorkError
from schemas.record import MediumKind

NUM_WORKERS: Final = 2
NUM_ROUNDS: Final = 5
_SOURCE: Final = "small"
_BITS: Final = 1


class Side(Enum):
    """Who looks at the files."""

    BARE = auto()
    PROBE = auto()


@dataclass(frozen=True, slots=True)
class HalfOfFiles:
    """A unit: one side, one half of the files."""

    side: Side
    half: int


@dataclass(frozen=True, slots=True)
class HalfDone:
    """What a unit took."""

    cpu_s: float
    wall_s: float
    num_bytes: int


@dataclass(frozen=True, slots=True)
class ProbeRate:
    """Medians over the rounds."""

    ratio: float
    """CPU time of the bare loop by that of the probe."""
    bare_us: float
    probe_us: float
    """CPU time a file."""
    wall_ratio: float


@dataclass(frozen=True, slots=True)
class RateWorker:
    """Builds the function that measures a unit inside a worker."""

    storage: Storage
    root: str
    asked: Scattered

    def build(self) -> Callable[[HalfOfFiles], HalfDone]:
        """See `Worker.build`."""

        def measure_half(unit: HalfOfFiles) -> HalfDone:
            look = self._hash if unit.side is Side.BARE else self._probe
            wall_s, cpu_s = time.perf_counter(), time.process_time()
            num_bytes = look(unit.half)
            return HalfDone(time.process_time() - cpu_s, time.perf_counter() - wall_s, num_bytes)

        return measure_half

    def _hash(self, half: int) -> int:
        num_bytes = 0
        for asked in unpack_asked(read_blob(self.storage, self.asked, half)):
            for path in asked.paths:
                with open(f"{self.root}/{path}", "rb") as file:
                    data = file.read()
                sha256(data).hexdigest()
                num_bytes += len(data)
        return num_bytes

    def _probe(self, half: int) -> int:
        worker = ProbeWorker(
            storage=self.storage,
            scratch="found",
            sources=(MediaSource(_SOURCE, "folder", self.root),),
            asking=(AskingRange(_SOURCE, self.asked),),
            request_bits=_BITS,
            cache=ProbeCache(self.storage, ()),
        )
        return worker.build()(half).counts.num_bytes_read


def measure_probe_rate(folder: Path, num_files: int) -> ProbeRate:
    """Write small files and let both sides look at them.

    Raises:
        WorkError: when the sides did not read the same bytes.
    """
    paths = write_small_files(folder / "media", num_files)
    storage = open_storage(str(folder / "corpus"))
    worker = RateWorker(storage, str(folder / "media"), ask_for(storage, paths))
    units = [HalfOfFiles(side, half) for _ in range(NUM_ROUNDS + 1) for side in Side for half in range(2)]
    with ProcessesEngine(NUM_WORKERS) as engine:
        done = run_in_order(engine, worker, units, "probe small files")
    rounds = [done[start : start + 4] for start in range(4, len(done), 4)]
    if any(bare.num_bytes != probe.num_bytes for one in rounds for bare, probe in _pair(one)):
        raise WorkError("the probe did not read all of the small files; write them again")
    bare_s = [sum(bare.cpu_s for bare, _ in _pair(one)) for one in rounds]
    probe_s = [sum(probe.cpu_s for _, probe in _pair(one)) for one in rounds]
    walls = [sum(b.wall_s for b, _ in _pair(one)) / sum(p.wall_s for _, p in _pair(one)) for one in rounds]
    return ProbeRate(
        ratio=median(bare / probe for bare, probe in zip(bare_s, probe_s, strict=True)),
        bare_us=median(bare_s) / num_files * 1e6,
        probe_us=median(probe_s) / num_files * 1e6,
        wall_ratio=median(walls),
    )


def _pair(one: Sequence[HalfDone]) -> list[tuple[HalfDone, HalfDone]]:
    """The halves of a round: the bare loop and the probe."""
    return list(zip(one[:2], one[2:], strict=True))


def ask_for(storage: Storage, paths: Sequence[str]) -> Scattered:
    """The files as ingest asks for them: in two buckets by their hash."""
    names = MediaNames()
    names.add_paths(MediumKind.IMAGE, sorted(paths))
    return scatter(storage, "asked", names.deal_out(_BITS))
