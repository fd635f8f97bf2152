"""The two sides of the benchmark of ingest, each a program of its own: `python -m jobs.bench.ingest_sides`.

    parse FOLDER          decode every annotation file whole, one after the other, without garbage collection
    ingest FOLDER N       read, check, write and group the N records with two workers, the probe pretended

Either writes one JSON object to stdout. The clock starts when everything is imported; the start of workers is
within it.
"""

import gc
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Final

import msgspec

from infra.storage import open_storage
from jobs.bench.pretended_probe import PretendedProbe
from jobs.bench.records import plan_sets
from pipelines.engine import Engine
from pipelines.ingest.flow import ingest
from pipelines.process_engine import ProcessesEngine
from schemas.recipe import Recipe, SourceConfig

NUM_WORKERS: Final = 2
CORPUS: Final = "corpus"
MEDIA: Final = "media"


class ParseTime(msgspec.Struct):
    """What the rival took."""

    wall_s: float
    cpu_s: float
    num_rows: int


class IngestTime(msgspec.Struct):
    """What ingest took, stage by stage, and what became of the records."""

    wall_s: float
    cpu_s: float
    """Of all processes, their start included."""
    stages_s: dict[str, float]
    read: int
    written: int
    rejects: dict[str, int]
    unique_media: int


def parse_files(folder: Path) -> ParseTime:
    """Decode all files of a folder whole; each is let go before the next, within the time."""
    paths = sorted(folder.glob("*.json"))
    num_rows = 0
    gc.disable()
    begin_cpu_s, begin_s = time.process_time(), time.perf_counter()
    for path in paths:
        with path.open("rb") as file:
            num_rows += len(msgspec.json.decode(file.read()))
    wall_s, cpu_s = time.perf_counter() - begin_s, time.process_time() - begin_cpu_s
    return ParseTime(wall_s, cpu_s, num_rows)


def ingest_files(folder: Path, num_records: int, engine: Engine) -> IngestTime:
    """Ingest the sets of a folder into a corpus beside them."""
    storage = open_storage(str(folder / CORPUS))
    recipe = make_recipe(folder, num_records)
    clock = StageClock()
    done = ingest(recipe, storage, engine, clock, probe=PretendedProbe)
    wall_s = time.perf_counter() - clock.begin_s
    used = os.times()  # workers are children of this process, and gone
    sources = done.manifest.sources
    rejects = sum((Counter(source.rejects) for source in sources), start=Counter[str]())
    return IngestTime(
        wall_s=wall_s,
        cpu_s=used.user + used.system + used.children_user + used.children_system,
        stages_s=clock.stages_s,
        read=sum(source.read for source in sources),
        written=sum(source.written for source in sources),
        rejects=dict(rejects),
        unique_media=done.manifest.num_media,
    )


def make_recipe(folder: Path, num_records: int) -> Recipe:
    """A source for each set; all share one media root."""
    sources = [
        SourceConfig(
            name=one.name,
            format=one.format,
            annotations=str(folder / one.file_name),
            media_root=str(folder / MEDIA),
        )
        for one in plan_sets(num_records)
    ]
    return Recipe(name="bench", sources=sources)


class StageClock:
    """Notes how long each stage takes; a `Progress`."""

    def __init__(self) -> None:
        self.begin_s = time.perf_counter()
        self.stages_s: dict[str, float] = {}
        self._since_s: dict[str, float] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        """See `Progress`."""
        now_s = time.perf_counter()
        if not done:
            self._since_s[stage] = now_s
        elif done == total:
            self.stages_s[stage] = self.stages_s.get(stage, 0.0) + now_s - self._since_s[stage]


def main() -> None:
    """Run the side that the arguments name."""
    side, folder, *rest = sys.argv[1:]
    if side == "parse":
        taken = parse_files(Path(folder))
    else:
        with ProcessesEngine(NUM_WORKERS) as engine:
            taken = ingest_files(Path(folder), int(rest[0]), engine)
    sys.stdout.buffer.write(msgspec.json.encode(taken))


if __name__ == "__main__":
    main()
