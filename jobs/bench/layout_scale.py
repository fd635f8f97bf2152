"""Ingest of every layout at scale, as a program: `python -m jobs.bench.layout_scale`.

    write FOLDER [N]      write N records (3,000,000) in every layout, and the recipe, where they are not yet
    ingest FOLDER [N]     ingest them with two workers, and see that each was written or lost as planted

`ingest` says by source, as one JSON object, what became of the records, and what it took in time and memory;
it fails where a record is missing or has another code than its fault. Pictures in rows are probed for what
they are; all other media are pretended. The corpus stays in FOLDER/corpus.

The recipe is for `onetoken ingest`, too, run in FOLDER; without the media, it finds them missing.
"""

import contextlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from infra.storage import open_storage
from jobs.bench.fresh import run_fresh
from jobs.bench.ingest_sides import NUM_WORKERS, StageClock
from jobs.bench.layouts import MEDIA, LayoutSource, make_recipe, plan_sources, write_lists
from jobs.bench.pretended_probe import PretendedProbe
from jobs.bench.records import WriteWorker
from pipelines.engine import Engine, run_in_order
from pipelines.ingest.flow import ingest
from pipelines.process_engine import ProcessesEngine
from schemas.corpus import SourceTotals
from schemas.errors import WorkError

NUM_RECORDS: Final = 3_000_000
CORPUS: Final = "corpus"
_PROGRAM: Final = "jobs.bench.layout_scale"


class SourceFate(msgspec.Struct):
    """What became of the records of a source."""

    format: str
    read: int
    not_taken: int
    written: int
    rejected: int
    rejects: dict[str, int]
    """By code."""


class LayoutRun(msgspec.Struct):
    """What an ingest of every layout came to."""

    wall_s: float
    cpu_s: float
    """Of all processes, their start included."""
    stages_s: dict[str, float]
    num_media: int
    sources: dict[str, SourceFate]
    peak_bytes: int = 0
    """Of all processes together; 0 where nobody watched."""


def write_layouts(folder: Path, sources: Sequence[LayoutSource], engine: Engine) -> None:
    """Write all files and the recipe; files that are there already are taken as they are."""
    sets = [file.records for source in sources for file in source.files]
    for path in (folder / MEDIA, *((folder / one.file_name).parent for one in sets)):
        path.mkdir(parents=True, exist_ok=True)
    run_in_order(engine, WriteWorker(str(folder)), sets, "write records")
    write_lists(folder, sources)


def ingest_layouts(folder: Path, sources: Sequence[LayoutSource], engine: Engine) -> LayoutRun:
    """Ingest all files into a corpus beside them.

    Raises:
        WorkError: when a record is neither written nor rejected for the fault that was planted in it.
    """
    clock = StageClock()
    with contextlib.chdir(folder):
        done = ingest(make_recipe(sources), open_storage(CORPUS), engine, clock, probe=PretendedProbe)
    wall_s = time.perf_counter() - clock.begin_s
    used = os.times()
    totals = zip(sources, done.manifest.sources, strict=True)
    fates = {planned.name: tell_fate(planned, total) for planned, total in totals}
    return LayoutRun(
        wall_s=wall_s,
        cpu_s=used.user + used.system + used.children_user + used.children_system,
        stages_s=clock.stages_s,
        num_media=done.manifest.num_media,
        sources=fates,
    )


def tell_fate(planned: LayoutSource, totals: SourceTotals) -> SourceFate:
    """What became of the records of a source.

    Raises:
        WorkError: when it is not what was planned.
    """
    fate = SourceFate(
        format=planned.format,
        read=totals.read,
        not_taken=totals.read - totals.taken,
        written=totals.written,
        rejected=totals.rejected,
        rejects=totals.rejects,
    )
    faults = planned.count_faults()
    num_faults = sum(faults.values())
    expected = SourceFate(
        format=planned.format,
        read=planned.num_records,
        not_taken=planned.num_records - planned.num_taken,
        written=planned.num_taken - num_faults,
        rejected=num_faults,
        rejects=faults,
    )
    if fate != expected:
        raise WorkError(f"source {planned.name}: it came to {fate}; it should be {expected}")
    return fate


def main() -> None:
    """Do what the arguments name."""
    verb, folder, *rest = sys.argv[1:]
    num_records = int(rest[0]) if rest else NUM_RECORDS
    sources = plan_sources(num_records)
    if verb == "ingest":
        run = run_fresh(_PROGRAM, ["ingest-unwatched", folder, str(num_records)], watches_memory=True)
        done = msgspec.json.decode(run.answer, type=LayoutRun)
        done.peak_bytes = run.peak_bytes
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(done)) + b"\n")
        return
    with ProcessesEngine(NUM_WORKERS) as engine:
        if verb == "write":
            write_layouts(Path(folder), sources, engine)
        else:
            done = ingest_layouts(Path(folder), sources, engine)
            sys.stdout.buffer.write(msgspec.json.encode(done))


if __name__ == "__main__":
    main()
