"""Millions of annotation records in files like the published ones, for runs at their scale.

Shares, sizes and spelling are those of the published sets: captions indented by two, mix665k indented and
with escapes, its end without pictures, VideoInstruct, and three compact files like the open mixtures. Two of
a thousand rows are broken. No medium is written. Three million records take 4 GB and two minutes; the same
numbers give the same bytes everywhere, and `VERSION` changes when they do.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

import msgspec

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
_BEYOND_ASCII: Final = re.compile(r"[^\x00-\x7f]+")


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
    indent: int = 0
    escapes: bool = False
    """Whether characters beyond ASCII are escaped, as Python does unless told otherwise."""
    faults: tuple[Fault, ...] = TALK_FAULTS
    """In turn, one in every `BROKEN_EVERY` rows."""

    @property
    def file_name(self) -> str:
        """What the file is called."""
        return f"{self.name}.json"

    def make_row(self, pool: TextPool, index: int) -> Row:
        """The row at a place of the file."""
        write = write_text_talk if index >= self.num_rows - self.num_text_rows else self.write_row
        row = write(pool, (_salt(self.name) << _ROW_BITS) + index, self.num_media)
        fault = self._fault_at(index)
        return fault[1](row) if fault else row

    def count_faults(self) -> Counter[RejectCode]:
        """Rows that are broken, by the code that they have to be rejected with."""
        faults = map(self._fault_at, range(BROKEN_EVERY - 1, self.num_rows, BROKEN_EVERY))
        return Counter(fault[0] for fault in faults if fault)

    def _fault_at(self, index: int) -> Fault | None:
        turn, rest = divmod(index, BROKEN_EVERY)
        return self.faults[turn % len(self.faults)] if rest == BROKEN_EVERY - 1 else None


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
            indent=2,
        ),
        RecordSet(
            name="mix665k",
            format="llava",
            num_rows=mixed,
            num_media=part(350_000),
            write_row=write_instruction,
            num_text_rows=int(mixed * TEXT_SHARE),
            indent=2,
            escapes=True,
        ),
        RecordSet(
            name="videos",
            format="video_chatgpt",
            num_rows=part(100_000),
            num_media=part(13_303),
            write_row=write_video_answer,
            indent=2,
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
    pool = TextPool(SEED)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(b"[")
        for start in range(0, one.num_rows, ROWS_PER_WRITE):
            stop = min(start + ROWS_PER_WRITE, one.num_rows)
            rows = [one.make_row(pool, index) for index in range(start, stop)]
            file.write((b"," if start else b"") + _spell(rows, one))
        file.write(b"\n]" if one.indent else b"]")
    partial.rename(path)


@dataclass(frozen=True, slots=True)
class WriteWorker:
    """Builds the function that writes sets inside a worker."""

    folder: str

    def build(self) -> Callable[[RecordSet], None]:
        """See `Worker.build`."""
        return lambda one: write_set(one, Path(self.folder) / one.file_name)


def _salt(name: str) -> int:
    return int.from_bytes(sha256(name.encode()).digest()[:4])


def _spell(rows: Sequence[Row], one: RecordSet) -> bytes:
    """Rows as they stand between the brackets of an array."""
    data = msgspec.json.encode(rows)
    if one.indent:
        data = msgspec.json.format(data, indent=one.indent).removesuffix(b"\n]")
    else:
        data = data.removesuffix(b"]")
    return (_escape(data) if one.escapes else data)[1:]


def _escape(data: bytes) -> bytes:
    return _BEYOND_ASCII.sub(_spell_units, data.decode()).encode("ascii")


def _spell_units(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be").hex()
    return "".join(f"\\u{units[start : start + 4]}" for start in range(0, len(units), 4))
