"""Millions of annotation records in files like the published ones, for runs at their scale.

A set is one file: its rows, its faults, its spelling. Planned here are the sets of `onetoken bench ingest`,
JSON arrays all of them, so that a bare parser can be the rival; `layouts` plans files of every other kind.
Shares, sizes and spelling are those of the published sets: captions indented by two, mix665k indented and
with escapes, its end without pictures, VideoInstruct, and three compact files like the open mixtures. Two of
a thousand rows are broken. No medium is written. Three million records take 4 GB and two minutes; the same
numbers give the same bytes everywhere, and `VERSION` changes when they do.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from jobs.bench.rows import (
    ANSWER_FAULTS,
    TALK_FAULTS,
    Fault,
    Row,
    RowWriter,
    write_caption,
    write_extra,
    write_instruction,
    write_text_talk,
    write_video_answer,
)
from jobs.bench.spelling import COMPACT, Spelling, write_rows
from jobs.bench.text_pool import TextPool
from schemas.errors import RejectCode
from schemas.recipe import Format

VERSION: Final = 1
SEED: Final = 1
ROWS_PER_WRITE: Final = 2000
BROKEN_EVERY: Final = 499
TEXT_SHARE: Final = 0.06
"""Of mix665k, at its end."""
_ROW_BITS: Final = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordSet:
    """One annotation file: what its rows are like, and how they are spelled."""

    name: str
    format: Format
    """The layout."""
    num_rows: int
    num_media: int
    """Different ones that rows may name."""
    write_row: RowWriter
    num_text_rows: int = 0
    """At the end, without media."""
    spelling: Spelling = COMPACT
    faults: tuple[Fault, ...] = TALK_FAULTS
    """In turn, one in every `broken_every` rows."""
    broken_every: int = BROKEN_EVERY

    @property
    def file_name(self) -> str:
        """What the file is called."""
        return f"{self.name}{self.spelling.suffix}"

    def make_row(self, pool: TextPool, index: int) -> Row:
        """The row at a place of the file."""
        write = write_text_talk if index >= self.num_rows - self.num_text_rows else self.write_row
        row = write(pool, (_salt(self.name) << _ROW_BITS) + index, self.num_media)
        fault = self._fault_at(index)
        return fault[1](row) if fault else row

    def count_faults(self, start: int = 0, stop: int | None = None) -> Counter[RejectCode]:
        """Rows that are broken, by the code that they have to be rejected with: of all rows, or of some."""
        rows = range(start, self.num_rows if stop is None else stop)
        first = (self.broken_every - 1 - start) % self.broken_every
        return Counter(fault[0] for fault in map(self._fault_at, rows[first :: self.broken_every]) if fault)

    def _fault_at(self, index: int) -> Fault | None:
        turn, rest = divmod(index, self.broken_every)
        return self.faults[turn % len(self.faults)] if rest == self.broken_every - 1 else None


def plan_sets(num_records: int) -> list[RecordSet]:
    """Files that hold so many records together; of three million none has over 700,000 rows."""

    def part(num_rows: int) -> int:
        return max(1, round(num_rows * num_records / 3_000_000))

    mixed = part(660_000)
    talked = [
        RecordSet(
            name="captions",
            format="llava",
            num_rows=part(555_000),
            num_media=660_000_000,
            write_row=write_caption,
            spelling=Spelling(indent=2),
        ),
        RecordSet(
            name="mix665k",
            format="llava",
            num_rows=mixed,
            num_media=part(350_000),
            write_row=write_instruction,
            num_text_rows=int(mixed * TEXT_SHARE),
            spelling=Spelling(indent=2, escapes=True),
        ),
        RecordSet(
            name="videos",
            format="video_chatgpt",
            num_rows=part(100_000),
            num_media=part(13_303),
            write_row=write_video_answer,
            spelling=Spelling(indent=2),
            faults=ANSWER_FAULTS,
        ),
    ]
    rest = num_records - sum(one.num_rows for one in talked)
    extras = [
        RecordSet(
            name=f"extras{index}",
            format="llava",
            num_rows=rest * (index + 1) // 3 - rest * index // 3,
            num_media=part(280_000),
            write_row=write_extra,
        )
        for index in range(3)
    ]
    return [*talked, *extras]


def write_set(one: RecordSet, path: Path) -> None:
    """Write a file of records; one that is there already is taken as it is."""
    if path.exists():
        return
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        write_rows(file, _make_batches(one), one.spelling)
    partial.rename(path)


@dataclass(frozen=True, slots=True)
class WriteWorker:
    """Builds the function that writes sets inside a worker."""

    folder: str

    def build(self) -> Callable[[RecordSet], None]:
        """See `Worker.build`."""
        return lambda one: write_set(one, Path(self.folder) / one.file_name)


def _make_batches(one: RecordSet) -> Iterator[list[Row]]:
    pool = TextPool(SEED)
    for start in range(0, one.num_rows, ROWS_PER_WRITE):
        stop = min(start + ROWS_PER_WRITE, one.num_rows)
        yield [one.make_row(pool, index) for index in range(start, stop)]


def _salt(name: str) -> int:
    return int.from_bytes(sha256(name.encode()).digest()[:4])
