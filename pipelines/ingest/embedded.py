"""The probe of media that stand in the rows of a parquet file.

A unit is a range of rows, for what makes reading such a file dear is its row groups: each is read once, in
order, and nobody else asks for its pictures. What an earlier run found holds while the file is the same.
"""

from collections.abc import Callable
from dataclasses import dataclass

from infra.files import open_files
from infra.storage import Storage
from pipelines.ingest.findings import (
    Finding,
    FoundMedium,
    ProbeCounts,
    RejectedMedium,
)
from pipelines.ingest.found_media import pack_media_of_rows
from pipelines.ingest.inputs import RangeUnit
from pipelines.ingest.media.facts import describe_bytes
from pipelines.ingest.probe import ProbeResult
from pipelines.ingest.probe_cache import ProbeCache
from pipelines.ingest.rows.parquet_rows import read_pictures
from pipelines.ingest.rows.ranges import RangeKind
from pipelines.scatter import scatter
from schemas.digest import SHORT, digest_of, sha256_hex
from schemas.errors import ConfigError, RejectCode
from schemas.record import MediumKind


@dataclass(frozen=True, slots=True)
class EmbeddedProbeWorker:
    """Builds the function that probes the media in a range of rows inside a worker."""

    storage: Storage
    scratch: str
    cache: ProbeCache

    def build(self) -> Callable[[RangeUnit], ProbeResult]:
        """See `Worker.build`."""

        def probe_rows(unit: RangeUnit) -> ProbeResult:
            files = open_files(unit.input.folder)
            state = files.state(unit.input.name)
            group = _name_range(files.url, unit)
            known = self.cache.read_rows(group, state)
            found = _read_findings(unit) if known is None else known
            findings = scatter(
                self.storage, f"{self.scratch}/embedded-{unit.index:06d}", [pack_media_of_rows(found)]
            )
            cached = self.cache.write_rows(group, state, found)
            return ProbeResult(findings, (group, ""), cached, _count(found, is_known=known is not None))

        return probe_rows


def locate_picture(name: str, row: int, place: int) -> str:
    """Where a picture is: the first of a row is named by the row alone."""
    return f"{name}#{row}/{place}" if place else f"{name}#{row}"


def _read_findings(unit: RangeUnit) -> list[list[Finding]]:
    """Findings of the rows that are used, in order.

    Raises:
        ConfigError: when the file is no parquet.
    """
    if unit.rows.kind is not RangeKind.PARQUET:
        raise ConfigError(
            f"source {unit.input.source}: {unit.input.written} is JSON, but pictures of the format "
            f"{unit.input.format!r} stand in parquet files; if it names files of pictures, use the format "
            "'llava' and a media_root"
        )
    with unit.input.open() as file:
        wanted = set(unit.within(0, unit.num_rows))
        rows = enumerate(read_pictures(file, unit.rows, unit.input.written))
        return [
            [_describe(unit, row, place, data) for place, data in enumerate(pictures)]
            for row, pictures in rows
            if row in wanted
        ]


def _describe(unit: RangeUnit, row: int, place: int, data: bytes | None) -> Finding:
    location = locate_picture(unit.input.name, unit.first_row + row, place)
    if not data:
        return RejectedMedium(RejectCode.EMPTY_FILE, f"{location!r}: the row holds no bytes")
    return describe_bytes(data, sha256_hex(data), MediumKind.IMAGE, location)


def _count(rows: list[list[Finding]], is_known: bool) -> ProbeCounts:
    findings = [finding for row in rows for finding in row]
    if is_known:
        return ProbeCounts(num_unchanged=len(findings))
    num_bytes = sum(finding.num_bytes for finding in findings if isinstance(finding, FoundMedium))
    return ProbeCounts(len(findings), num_bytes)


def _name_range(url: str, unit: RangeUnit) -> str:
    """A name for what decides which rows are looked at; no `-` in it."""
    taken = None if unit.taken is None else unit.taken.digest
    values = [url, unit.input.name, unit.rows.start, unit.rows.end, unit.first_row, taken]
    return f"rows_{digest_of(values)[:SHORT]}"
