"""The scan: how many rows a range of an annotation file has, and which media they name.

Nothing is checked here but that ranges begin and end between rows; text is passed over at the speed of the
parser. What it is for: rows get their numbers before any of them is read, `take` can be decided, and media
are probed, each once, before the records that name them are put together.

A row whose media are malformed names none here; reading it will reject it. Media of rows that are rejected
for another reason are probed in vain.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

import numpy as np

from infra.storage import Storage
from operators.annotations import LAYOUTS
from operators.annotations.layout import Layout
from operators.annotations.usual import name_usual_media
from pipelines.ingest.asked import MediaNames
from pipelines.ingest.collection import no_collection
from pipelines.ingest.inputs import RangeUnit
from pipelines.ingest.rows.chunks import ScannedChunk, scan_chunks
from pipelines.ingest.rows.ranges import RangeBoundaryError
from pipelines.ingest.take import rank_row
from pipelines.scatter import Scattered, scatter
from schemas.errors import SampleError

MAX_REQUEST_BITS: Final = 8
RECORDS_PER_BUCKET: Final = 64
TYPICAL_RECORD_BYTES: Final = 1000


class Wanted(Enum):
    """What a scan is for."""

    COUNT = auto()
    """The number of rows alone: `take` has to know it first."""
    RANKS = auto()
    """A number for each row, too: `take: random` goes by it."""
    MEDIA = auto()
    """The media that the rows name, too."""


@dataclass(frozen=True, slots=True)
class ScanUnit:
    """A range to be scanned."""

    range: RangeUnit
    wanted: Wanted


@dataclass(frozen=True, slots=True)
class ScanResult:
    """What a range holds."""

    num_rows: int
    references: Scattered | None = None
    """The media that its rows name, distinct, by bits of their hash."""
    ranks: bytes = b""
    """64-bit numbers, one a row."""
    is_misplaced: bool = False
    """The range does not begin and end between rows: it was guessed, and has to be read in sequence."""


@dataclass(frozen=True, slots=True)
class ScanWorker:
    """Builds the scanning function inside a worker."""

    storage: Storage
    scratch: str
    request_bits: int

    def build(self) -> Callable[[ScanUnit], ScanResult]:
        """See `Worker.build`."""

        def scan_unit(unit: ScanUnit) -> ScanResult:
            try:
                with no_collection():
                    return self._scan(unit)
            except RangeBoundaryError:
                return ScanResult(0, is_misplaced=True)

        return scan_unit

    def _scan(self, unit: ScanUnit) -> ScanResult:
        layout = LAYOUTS[unit.range.input.format]
        fields = layout.media_fields if unit.wanted is Wanted.MEDIA else ()
        names = MediaNames()
        ranks: list[int] = []
        num_rows = 0
        one = unit.range
        with one.input.open() as file:
            for chunk in scan_chunks(file, one.input.written, one.rows, one.first_row, fields):
                if unit.wanted is Wanted.RANKS:
                    ranks += [rank_row(chunk.raw(index)) for index in range(chunk.num_rows)]
                if fields:
                    _collect(chunk, unit.range, num_rows, layout, names)
                num_rows += chunk.num_rows
        if unit.wanted is not Wanted.MEDIA:
            return ScanResult(num_rows, ranks=np.array(ranks, dtype=np.uint64).tobytes())
        path = f"{self.scratch}/references-{unit.range.index:06d}"
        return ScanResult(num_rows, scatter(self.storage, path, names.deal_out(self.request_bits)))


def choose_request_bits(num_annotation_bytes: int) -> int:
    """How many bits of its hash name the bucket that a request goes to."""
    num_buckets = num_annotation_bytes // TYPICAL_RECORD_BYTES // RECORDS_PER_BUCKET
    return min(MAX_REQUEST_BITS, num_buckets.bit_length())


def _collect(chunk: ScannedChunk, unit: RangeUnit, first: int, layout: Layout, names: MediaNames) -> None:
    """Add the media that the rows of a chunk name, as far as they are used."""
    values = chunk.values
    if unit.taken is not None:
        values = [values[index] for index in unit.within(first, chunk.num_rows)]
    usual = name_usual_media(values) if layout.usual else None
    if usual is not None:
        names.add_paths(*usual)
        return
    for named in values:
        try:
            names.add(layout.name_media(*named))
        except SampleError:
            continue
