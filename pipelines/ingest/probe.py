"""The probe: which file a record means, what its bytes are, and what their header says.

A unit is a bucket of references, distinct ones, so that a medium that a thousand records name is read once,
if it is not what an earlier run has seen. Pixels are not decoded: damage inside shows when features are
made, under the same codes.

Findings go back to where they were asked for: a blob for each range of rows, in the order of its references.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from infra.storage import Storage
from pipelines.ingest.asked import unpack_asked
from pipelines.ingest.collection import no_collection
from pipelines.ingest.file_probe import FileProbe
from pipelines.ingest.findings import ProbeCounts
from pipelines.ingest.found_media import list_media, pack_media
from pipelines.ingest.media.reader import MediaReader, MediaSource
from pipelines.ingest.probe_cache import ProbeCache
from pipelines.scatter import Scattered, read_blob, scatter

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
                    found = [one for some in asked for one in probe.look(asking.source, some)]
                    blobs.append(pack_media(list_media(found)))
            findings = scatter(self.storage, f"{self.scratch}/findings-{bucket:06d}", blobs)
            cached = self.cache.write(FILES, bits, probe.seen())
            return ProbeResult(findings, (FILES, bits), cached, probe.counts)

        return probe_bucket
