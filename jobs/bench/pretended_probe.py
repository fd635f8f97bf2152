"""A probe that opens nothing: every medium that a record names is there, and its facts are made up."""

from array import array
from collections.abc import Callable
from typing import Final

from xxhash import xxh3_128_hexdigest

from operators.sniff import FORMATS, JPEG, MP4
from pipelines.ingest.asked import AskedMedia, unpack_asked
from pipelines.ingest.columns import Texts
from pipelines.ingest.found_media import FoundMedia, join_media, pack_media
from pipelines.ingest.probe import FILES, ProbeCounts, ProbeResult, ProbeWorker
from pipelines.scatter import read_blob, scatter
from schemas.record import MediumKind

_FORMATS: Final = {MediumKind.IMAGE: JPEG, MediumKind.VIDEO: MP4}
_DURATIONS_S: Final = {MediumKind.IMAGE: 0.0, MediumKind.VIDEO: 30.0}


class PretendedProbe(ProbeWorker):
    """Answers as `ProbeWorker` does, without media, and keeps no cache."""

    def build(self) -> Callable[[int], ProbeResult]:
        """See `Worker.build`."""
        roots = {source.name: source.url for source in self.sources}

        def answer_bucket(bucket: int) -> ProbeResult:
            blobs: list[bytes] = []
            for asking in self.asking:
                asked = unpack_asked(read_blob(self.storage, asking.references, bucket))
                blobs.append(pack_media(join_media([pretend(roots[asking.source], some) for some in asked])))
            findings = scatter(self.storage, f"{self.scratch}/findings-{bucket:06d}", blobs)
            return ProbeResult(findings, (FILES, f"{bucket:0{self.request_bits}b}"), None, ProbeCounts())

        return answer_bucket


def pretend(root: str, asked: AskedMedia) -> FoundMedia:
    """Facts of media that nobody has seen: the same for the same root and path."""
    digests = [xxh3_128_hexdigest(f"{root}/{path}".encode()) for path in asked.paths]
    count = len(digests)
    locations = Texts()
    locations.add(asked.paths)
    lengths, texts = locations.flatten()
    return FoundMedia(
        sha256s="".join([2 * digest for digest in digests]).encode(),
        formats=bytes([FORMATS.index(_FORMATS[asked.kind])]) * count,
        are_by_stem=bytes(count),
        num_bytes=array("q", [20_000 + int(digest[:4], 16) for digest in digests]).tobytes(),
        widths_px=array("i", [640]).tobytes() * count,
        heights_px=array("i", [480]).tobytes() * count,
        durations_s=array("d", [_DURATIONS_S[asked.kind]]).tobytes() * count,
        location_lengths=lengths,
        locations=texts,
    )
