"""The probe: which file a record means, what its bytes are, and what their header says.

A unit is a batch of requests, distinct ones, so that a medium that a thousand records name is read once.
Each is read whole once, for its sha256 and its header together. Pixels are not decoded (but the first
frame of a clip is): damage inside shows when features are made, under the same codes.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import PurePosixPath
from typing import Final

from operators.image import read_image_facts
from operators.sniff import HEAD_BYTES, sniff_format
from operators.video import read_video_facts
from pipelines.ingest.media import MediaReader, MediaSource
from schemas.digest import sha256_hex
from schemas.errors import RejectCode, SampleError
from schemas.medium import MediumFacts
from schemas.record import MediumKind, MediumReference, Record

FILES_PER_UNIT: Final = 64
EMBEDDED_PER_UNIT: Final = 1024
"""Rows of a parquet file share row groups; larger units read fewer of them twice."""


@dataclass(frozen=True, slots=True, order=True)
class MediumRequest:
    """A medium as the records of a source name it."""

    source: str
    path: str
    """As the record spells it, or `FILE#ROW` for a medium that stands in the row."""
    kind: MediumKind
    by_stem: bool


@dataclass(frozen=True, slots=True)
class FoundMedium:
    """Where a requested medium is, and what it is."""

    location: str
    facts: MediumFacts
    is_by_stem: bool = False
    """The record gives another extension, and there is no such file."""


@dataclass(frozen=True, slots=True)
class RejectedMedium:
    """Why a requested medium cannot be used."""

    code: RejectCode
    message: str


Finding = FoundMedium | RejectedMedium
ProbeUnit = tuple[MediumRequest, ...]


@dataclass(frozen=True, slots=True)
class ProbeWorker:
    """Builds the probing function inside a worker."""

    sources: tuple[MediaSource, ...]

    def build(self) -> Callable[[ProbeUnit], tuple[Finding, ...]]:
        """See `Worker.build`."""
        reader = MediaReader(self.sources)

        def probe_all(unit: ProbeUnit) -> tuple[Finding, ...]:
            return tuple(probe_medium(reader, request) for request in unit)

        return probe_all


def request_medium(record: Record) -> MediumRequest | None:
    """The request for the medium of a record, if it has one."""
    if not record.media:
        return None
    (reference,) = record.media
    path = str(record.locator.file) + f"#{record.locator.row}" if reference.path is None else reference.path
    return MediumRequest(record.source, path, reference.kind, reference.by_stem)


def plan_probes(requests: Iterable[MediumRequest], embedded_sources: frozenset[str]) -> list[ProbeUnit]:
    """Batches of the distinct requests, neighbours together."""
    units: list[ProbeUnit] = []
    for source, group in groupby(sorted(set(requests), key=_neighbours_together), lambda item: item.source):
        members = tuple(group)
        size = EMBEDDED_PER_UNIT if source in embedded_sources else FILES_PER_UNIT
        units += [members[start : start + size] for start in range(0, len(members), size)]
    return units


def probe_medium(reader: MediaReader, request: MediumRequest) -> Finding:
    """Find, read and describe one medium."""
    reference = MediumReference(request.kind, request.path, by_stem=request.by_stem)
    try:
        location = reader.find(request.source, reference)
    except SampleError as error:
        return RejectedMedium(error.code, error.message)
    try:
        facts = read_facts(reader.read(request.source, location, request.kind), request.kind)
    except SampleError as error:
        return RejectedMedium(error.code, f"{location!r}: {error.message}")
    has_other_name = PurePosixPath(location).name != PurePosixPath(request.path).name
    return FoundMedium(location, facts, has_other_name and not request.by_stem)


def read_facts(data: bytes, kind: MediumKind) -> MediumFacts:
    """Digest, kind, size and duration of an encoded medium.

    Raises:
        SampleError: EMPTY_FILE, UNKNOWN_FORMAT, WRONG_KIND, and what the header parsers find.
    """
    if not data:
        raise SampleError(RejectCode.EMPTY_FILE, "the file has no bytes")
    medium_format = sniff_format(data[:HEAD_BYTES])
    if medium_format is None:
        raise SampleError(RejectCode.UNKNOWN_FORMAT, f"no known format starts with {data[:8]!r}")
    if medium_format.kind is not kind:
        message = f"the record wants {kind.value}, the bytes are {medium_format.kind.value}"
        raise SampleError(RejectCode.WRONG_KIND, f"{message} ({medium_format.extension})")
    if kind is MediumKind.IMAGE:
        image = read_image_facts(data)
        size_px, duration_s = (image.width_px, image.height_px), 0.0
    else:
        video = read_video_facts(data)
        size_px, duration_s = (video.width_px, video.height_px), video.duration_s
    return MediumFacts(sha256_hex(data), kind, medium_format.extension, len(data), *size_px, duration_s)


def collect_findings(
    units: Sequence[ProbeUnit], results: Sequence[tuple[Finding, ...]]
) -> dict[MediumRequest, Finding]:
    """What was found, by request."""
    return {
        request: finding
        for unit, findings in zip(units, results, strict=True)
        for request, finding in zip(unit, findings, strict=True)
    }


def _neighbours_together(request: MediumRequest) -> tuple[str, str, int, MediumRequest]:
    """Sort key: by source and file, rows of a parquet file by number."""
    file, _, row = request.path.rpartition("#")
    return (
        (request.source, file, int(row), request)
        if row.isdecimal()
        else (request.source, request.path, 0, request)
    )
