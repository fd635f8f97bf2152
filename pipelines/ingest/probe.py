"""The probe: which file a record means, what its bytes are, and what their header says.

A unit is a bucket of references, distinct ones, so that a medium that a thousand records name is read once.
Each is read whole once, for its sha256 and its header together, and only if it is not what an earlier run has
seen. Pixels are not decoded: damage inside shows when features are made, under the same codes.

Findings go back to where they were asked for: a blob for each range of rows, in the order of its references.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import PurePosixPath
from typing import Final

import msgspec

from infra.storage import Storage
from operators.video import VideoFacts
from pipelines.decode.isolated import IsolatedDecoder
from pipelines.ingest.asked import request_hash, unpack_asked
from pipelines.ingest.collection import no_collection
from pipelines.ingest.findings import (
    Finding,
    FoundMedium,
    ProbeCounts,
    RejectedMedium,
)
from pipelines.ingest.found_media import list_media, pack_media
from pipelines.ingest.media.facts import read_facts
from pipelines.ingest.media.reader import MediaReader, MediaSource
from pipelines.ingest.media.root import MediaRoot
from pipelines.ingest.probe_cache import CachedFinding, Place, ProbeCache
from pipelines.scatter import Scattered, read_blob, scatter
from schemas.errors import SampleError
from schemas.record import MediumReference

FILES: Final = "files"
"""Group of the cache that findings of files are in."""


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
                    asked = unpack_asked(read_blob(self.storage, asking.references, bucket))
                    found = [
                        probe.find(asking.source, named) for some in asked for named in some.references()
                    ]
                    blobs.append(pack_media(list_media(found)))
            findings = scatter(self.storage, f"{self.scratch}/findings-{bucket:06d}", blobs)
            cached = self.cache.write(FILES, bits, probe.seen.values())
            return ProbeResult(findings, (FILES, bits), cached, probe.counts)

        return probe_bucket


class FileProbe:
    """Looks at media, each once."""

    def __init__(self, media: MediaReader, seen: dict[Place, CachedFinding]) -> None:
        """`seen` is what is known of files, by where they are; what is found out is added."""
        self.seen = seen
        self._media = media
        self._answers: dict[tuple[str, MediumReference], Finding] = {}
        self._read_now: set[Place] = set()
        self._num_read = self._num_bytes_read = self._num_unchanged = 0

    @property
    def counts(self) -> ProbeCounts:
        """What was done so far."""
        return ProbeCounts(self._num_read, self._num_bytes_read, self._num_unchanged)

    def find(self, source: str, reference: MediumReference) -> Finding:
        """Find, read and describe one medium."""
        asked = (source, reference)
        answer = self._answers.get(asked)
        if answer is None:
            answer = self._answers[asked] = self._find(self._media.root(source), reference)
        return answer

    def _find(self, root: MediaRoot, reference: MediumReference) -> Finding:
        """What is there, from the cache if the file is the same."""
        kind = reference.kind
        try:
            location = root.find(reference)
            state = root.state(location)
            place = (root.url, location, kind)
            known = self.seen.get(place)
            if known is not None and known.holds_for(state):
                self._num_unchanged += place not in self._read_now
                finding = known.finding
            else:
                finding = self._read(root, reference, location)
                self._read_now.add(place)
                self.seen[place] = CachedFinding(request_hash(str(reference.path)), *place, *state, finding)
        except SampleError as error:
            return RejectedMedium(error.code, error.message)
        is_plain = location == reference.path or isinstance(finding, RejectedMedium)
        if is_plain or not _is_by_stem(location, reference):
            return finding
        return msgspec.structs.replace(finding, is_by_stem=True)

    def _read(self, root: MediaRoot, reference: MediumReference, location: str) -> Finding:
        """What a file is, or why it cannot be used, for the cache to keep."""
        self._num_read += 1
        try:
            data = root.read(location, reference.kind)
        except SampleError as error:
            return RejectedMedium(error.code, error.message)
        self._num_bytes_read += len(data)
        return describe_bytes(data, reference, location)


def describe_bytes(data: bytes, reference: MediumReference, location: str) -> Finding:
    """The finding of a medium whose bytes are at hand."""
    try:
        return FoundMedium(*read_facts(data, reference.kind, _read_clip), location)
    except SampleError as error:
        return RejectedMedium(error.code, f"{location!r}: {error.message}")


def _read_clip(data: bytes) -> VideoFacts:
    return _decoder().read_video_facts(data)


@cache
def _decoder() -> IsolatedDecoder:
    """The process that opens clips for this one: a hostile clip costs itself and nothing else."""
    return IsolatedDecoder()


def _is_by_stem(location: str, reference: MediumReference) -> bool:
    """Whether a file has another name than the record gives it; some records give none."""
    return not reference.by_stem and location.rpartition("/")[2] != PurePosixPath(str(reference.path)).name
