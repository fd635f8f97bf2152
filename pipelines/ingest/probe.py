"""The probe: which file a record means, what its bytes are, and what their header says.

A unit is a bucket of references, distinct ones, so that a medium that a thousand records name is read once.
Each is read whole once, for its sha256 and its header together, and only if it is not what an earlier run has
seen. Pixels are not decoded: damage inside shows when features are made, under the same codes.

Findings go back to where they were asked for: a blob for each range of rows, in the order of its references.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import PurePosixPath
from typing import Final

import xxhash

from infra.storage import Storage
from pipelines.decode.isolated import IsolatedDecoder
from pipelines.ingest.collection import no_collection
from pipelines.ingest.facts import read_facts
from pipelines.ingest.findings import (
    Finding,
    ProbeCounts,
    RejectedMedium,
    describe_found,
    pack_findings,
    unpack_references,
)
from pipelines.ingest.media import MediaReader, MediaSource
from pipelines.ingest.probe_cache import CachedFinding, Place, ProbeCache
from pipelines.scatter import Scattered, read_blob, scatter
from schemas.errors import SampleError
from schemas.record import MediumReference

FILES: Final = "files"
"""Group of the cache that findings of files are in."""
_HASH_BITS: Final = 64


@dataclass(frozen=True, slots=True)
class AskingRange:
    """A range of rows, and the media that it asks for."""

    source: str
    references: Scattered


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What a unit found."""

    findings: Scattered
    cache_slot: tuple[str, str]
    """Group and bits of the cache that the unit brought up to date."""
    cached: str | None
    """The object that the cache holds there now."""
    counts: ProbeCounts


@dataclass(frozen=True, slots=True)
class ProbeWorker:
    """Builds the function that probes a bucket of references inside a worker."""

    storage: Storage
    scratch: str
    sources: tuple[MediaSource, ...]
    asking: tuple[AskingRange, ...]
    request_bits: int
    cache: ProbeCache

    def build(self) -> Callable[[int], ProbeResult]:
        """See `Worker.build`."""
        media = MediaReader(self.sources)

        def probe_bucket(bucket: int) -> ProbeResult:
            bits = f"{bucket:0{self.request_bits}b}" if self.request_bits else ""
            probe = FileProbe(media, self.cache.read(FILES, bits))
            blobs: list[bytes] = []
            with no_collection():
                for asking in self.asking:
                    references = unpack_references(read_blob(self.storage, asking.references, bucket))
                    blobs.append(pack_findings([probe.find(asking.source, named) for named in references]))
            findings = scatter(self.storage, f"{self.scratch}/findings-{bucket:06d}", blobs)
            cached = self.cache.write(FILES, bits, probe.seen.values())
            return ProbeResult(findings, (FILES, bits), cached, probe.counts)

        return probe_bucket


@dataclass(slots=True)
class FileProbe:
    """Looks at media, each once."""

    media: MediaReader
    seen: dict[Place, CachedFinding]
    """What is known of files, by where they are."""
    counts: ProbeCounts = field(default_factory=ProbeCounts)
    _answers: dict[tuple[str, MediumReference], Finding] = field(
        default_factory=dict[tuple[str, MediumReference], Finding]
    )

    def find(self, source: str, reference: MediumReference) -> Finding:
        """Find, read and describe one medium."""
        asked = (source, reference)
        if asked not in self._answers:
            self._answers[asked] = self._find(source, reference)
        return self._answers[asked]

    def _find(self, source: str, reference: MediumReference) -> Finding:
        try:
            location = self.media.find(source, reference)
            finding = self._look(source, location, reference)
        except SampleError as error:
            return RejectedMedium(error.code, error.message)
        if isinstance(finding, RejectedMedium):
            return finding
        is_by_stem = not reference.by_stem and _name(location) != _name(str(reference.path))
        return describe_found(location, finding.facts, is_by_stem)

    def _look(self, source: str, location: str, reference: MediumReference) -> Finding:
        """What is at a location, from the cache if the file is the same."""
        state = self.media.state(source, location)
        place = (self.media.root_of(source), location, reference.kind)
        known = self.seen.get(place)
        if known is not None and known.holds_for(state):
            self.counts += ProbeCounts(num_unchanged=1)
            return known.finding
        finding, num_bytes = self._read(source, location, reference)
        self.counts += ProbeCounts(num_read=1, num_bytes_read=num_bytes)
        number = request_hash(source, reference)
        self.seen[place] = CachedFinding(number, *place, state.num_bytes, state.mtime_ns, state.etag, finding)
        return finding

    def _read(self, source: str, location: str, reference: MediumReference) -> tuple[Finding, int]:
        try:
            data = self.media.read(source, location, reference.kind)
        except SampleError as error:
            return RejectedMedium(error.code, error.message), 0
        return describe_bytes(data, reference, location), len(data)


def describe_bytes(data: bytes, reference: MediumReference, location: str) -> Finding:
    """The finding of a medium whose bytes are at hand."""
    try:
        return describe_found(location, read_facts(data, reference.kind, _decoder().read_video_facts))
    except SampleError as error:
        return RejectedMedium(error.code, f"{location!r}: {error.message}")


@cache
def _decoder() -> IsolatedDecoder:
    """The process that opens clips for this one: a hostile clip costs itself and nothing else."""
    return IsolatedDecoder()


def request_hash(source: str, reference: MediumReference) -> int:
    """64 bits that spread the media of all sources evenly."""
    return xxhash.xxh3_64_intdigest(f"{source}\0{reference.path}".encode("utf-8", "surrogatepass"))


def request_bucket(source: str, reference: MediumReference, bits: int) -> int:
    """The bucket that a reference belongs to."""
    return request_hash(source, reference) >> (_HASH_BITS - bits)


def _name(path: str) -> str:
    return PurePosixPath(path).name
