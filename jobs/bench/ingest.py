"""`onetoken bench ingest`: three million records, against parsing them and nothing else.

Ours reads, checks, writes and groups, with two workers; the rival is `msgspec.json.decode(file.read())` of
the same files, one after the other in one process. Both start fresh, take turns, and find the files in the
page cache. Memory is watched in runs of their own, at a third of the records and at all, for watching costs
time. No medium is opened: what probing small files costs is measured by itself.

Needs 12 GB of disk at full scale, and 6 GB of memory for the rival; takes ten minutes, some of them for
writing the records, which are kept where `--folder` says.
"""

import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import msgspec

from jobs.bench.fresh import run_fresh
from jobs.bench.ingest_sides import CORPUS, MEDIA, NUM_WORKERS, IngestTime, ParseTime
from jobs.bench.probe_rate import measure_probe_rate
from jobs.bench.records import VERSION, RecordSet, WriteWorker, plan_sets
from jobs.bench.result import Measured, Say
from jobs.bench.tree_memory import can_watch_memory
from pipelines.engine import run_in_order
from pipelines.process_engine import ProcessesEngine
from schemas.errors import RejectCode, WorkError

NUM_RECORDS: Final = 3_000_000
NUM_SMALL_FILES: Final = 20_000
MAX_ROUNDS: Final = 3
ROUNDS_LIMIT_S: Final = 60.0
"""No further round begins after that."""
_SIDES: Final = "jobs.bench.ingest_sides"
_READ_BYTES: Final = 1 << 24


@dataclass(frozen=True, slots=True)
class RecordFolder:
    """Annotation files of so many records."""

    path: Path
    sets: tuple[RecordSet, ...]

    @property
    def num_records(self) -> int:
        """Rows of all files."""
        return sum(one.num_rows for one in self.sets)

    @property
    def num_bytes(self) -> int:
        """Size of all files."""
        return sum((self.path / one.file_name).stat().st_size for one in self.sets)


@dataclass(frozen=True, slots=True)
class Round:
    """One run of either side."""

    parse: ParseTime
    ingest: IngestTime

    @property
    def ratio(self) -> float:
        """Wall time of ours by that of the rival."""
        return self.ingest.wall_s / self.parse.wall_s


def measure(folder: Path, say: Say, scale: float = 1.0) -> Measured:
    """See `Measure`."""
    num_records = max(60, round(NUM_RECORDS * scale))
    records = write_records(folder, num_records, say)
    rounds = run_rounds(records, say)
    ratios = {"wall_vs_parse": median(one.ratio for one in rounds)}
    not_measured: tuple[str, ...] = ()
    if can_watch_memory():
        fewer = write_records(folder, num_records // 3, say)
        peaks = [watch_peak(few, say) for few in (fewer, records)]
        ratios["peak_mib"] = peaks[1] / 2**20
        ratios["peak_bytes_per_record"] = (peaks[1] - peaks[0]) / (records.num_records - fewer.num_records)
    else:
        not_measured = ("peak_mib", "peak_bytes_per_record")
    num_files = max(40, round(NUM_SMALL_FILES * scale))
    say(f"probing {num_files} small files")
    rate = measure_probe_rate(folder / "small", num_files)
    ratios["probe_vs_sha256"] = rate.ratio
    details = describe_rounds(records, rounds) | {
        "probe_us_a_file": rate.probe_us,
        "sha256_us_a_file": rate.bare_us,
        "probe_vs_sha256_wall": rate.wall_ratio,
    }
    return Measured(ratios=ratios, details=details, not_measured=not_measured)


def write_records(folder: Path, num_records: int, say: Say) -> RecordFolder:
    """The annotation files of so many records, written where they are not there yet."""
    path = folder / f"records-v{VERSION}-{num_records}"
    (path / MEDIA).mkdir(parents=True, exist_ok=True)
    sets = tuple(plan_sets(num_records))
    say(f"writing {num_records} records to {path}")
    with ProcessesEngine(NUM_WORKERS) as engine:
        run_in_order(engine, WriteWorker(str(path)), sets, "write records")
    return RecordFolder(path, sets)


def run_rounds(records: RecordFolder, say: Say) -> list[Round]:
    """Let both sides take turns."""
    say("reading all of it once, then parsing and ingest in turn")
    _warm_page_cache(records)
    begin_s = time.monotonic()
    rounds: list[Round] = []
    while not rounds or (len(rounds) < MAX_ROUNDS and time.monotonic() - begin_s < ROUNDS_LIMIT_S):
        parse = msgspec.json.decode(run_fresh(_SIDES, ["parse", str(records.path)]).answer, type=ParseTime)
        ours, _ = _run_ingest(records)
        rounds.append(Round(parse, ours))
        say(f"parsing {parse.wall_s:.2f} s (CPU {parse.cpu_s:.2f}), ingest {_tell_time(ours)}")
    say(_tell_fate(rounds[-1].ingest))
    return rounds


def watch_peak(records: RecordFolder, say: Say) -> int:
    """The most memory that ingest took at any moment, all processes together."""
    _, peak_bytes = _run_ingest(records, watches_memory=True)
    say(f"{records.num_records} records: {peak_bytes / 2**20:.0f} MiB at most")
    return peak_bytes


def describe_rounds(records: RecordFolder, rounds: Sequence[Round]) -> dict[str, float]:
    """What the ratio was made of, as medians over the rounds."""
    stages = rounds[-1].ingest.stages_s
    return {
        "num_records": records.num_records,
        "bytes_per_record": records.num_bytes / records.num_records,
        "rounds": len(rounds),
        "parse_s": median(one.parse.wall_s for one in rounds),
        "parse_cpu_s": median(one.parse.cpu_s for one in rounds),
        "ingest_s": median(one.ingest.wall_s for one in rounds),
        "ingest_cpu_s": median(one.ingest.cpu_s for one in rounds),
        **{f"{stage}_s": median(one.ingest.stages_s[stage] for one in rounds) for stage in stages},
        "rejected": sum(rounds[-1].ingest.rejects.values()),
        "unique_media": rounds[-1].ingest.unique_media,
    }


def _run_ingest(records: RecordFolder, watches_memory: bool = False) -> tuple[IngestTime, int]:
    """Run our side; its times, and its peak where it was watched."""
    arguments = ["ingest", str(records.path), str(records.num_records)]
    try:
        run = run_fresh(_SIDES, arguments, watches_memory)
    finally:
        shutil.rmtree(records.path / CORPUS, ignore_errors=True)
    ours = msgspec.json.decode(run.answer, type=IngestTime)
    check_fate(records, ours)
    return ours, run.peak_bytes


def check_fate(records: RecordFolder, ours: IngestTime) -> None:
    """Every record was written or rejected, and those that are broken for what is wrong with them.

    Raises:
        WorkError: when not.
    """
    faults = sum((one.count_faults() for one in records.sets), start=Counter[RejectCode]())
    planted = {code.value: count for code, count in faults.items()}
    expected = (records.num_records, records.num_records - sum(planted.values()), planted)
    if (ours.read, ours.written, ours.rejects) != expected:
        raise WorkError(f"of {records.path} this became: {_tell_fate(ours)}; it should be {expected}")


def _tell_fate(ours: IngestTime) -> str:
    rejected = sum(ours.rejects.values())
    return f"read {ours.read} = written {ours.written} + rejected {rejected} {ours.rejects}"


def _tell_time(ours: IngestTime) -> str:
    stages = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in ours.stages_s.items())
    return f"{ours.wall_s:.2f} s (CPU {ours.cpu_s:.2f}): {stages}"


def _warm_page_cache(records: RecordFolder) -> None:
    for one in records.sets:
        with (records.path / one.file_name).open("rb") as file:
            while file.read(_READ_BYTES):
                pass
