"""A probe that opens nothing: every medium that a record names is there, and its facts are made up."""

from collections.abc import Callable
from typing import Final

from xxhash import xxh3_128_hexdigest

from pipelines.ingest.findings import Finding, describe_found, pack_findings, unpack_references
from pipelines.ingest.probe import FILES, ProbeCounts, ProbeResult, ProbeWorker
from pipelines.scatter import read_blob, scatter
from schemas.medium import MediumFacts
from schemas.record import MediumKind, MediumReference

_EXTENSIONS: Final = {MediumKind.IMAGE: "jpg", MediumKind.VIDEO: "mp4"}
_DURATIONS_S: Final = {MediumKind.IMAGE: 0.0, MediumKind.VIDEO: 30.0}


class PretendedProbe(ProbeWorker):
    """Answers as `ProbeWorker` does, without media, and keeps no cache."""

    def build(self) -> Callable[[int], ProbeResult]:
        """See `Worker.build`."""
        roots = {source.name: source.url for source in self.sources}

        def answer_bucket(bucket: int) -> ProbeResult:
            blobs: list[bytes] = []
            for asking in self.asking:
                references = unpack_references(read_blob(self.storage, asking.references, bucket))
                blobs.append(pack_findings([pretend(roots[asking.source], one) for one in references]))
            findings = scatter(self.storage, f"{self.scratch}/findings-{bucket:06d}", blobs)
            return ProbeResult(findings, (FILES, f"{bucket:0{self.request_bits}b}"), None, ProbeCounts())

        return answer_bucket


def pretend(root: str, reference: MediumReference) -> Finding:
    """Facts of a medium that nobody has seen: the same for the same root and path."""
    path = reference.path or ""
    kind = reference.kind
    digest = xxh3_128_hexdigest(f"{root}/{path}".encode())
    num_bytes = 20_000 + int(digest[:4], 16)
    facts = MediumFacts(2 * digest, kind, _EXTENSIONS[kind], num_bytes, 640, 480, _DURATIONS_S[kind])
    return describe_found(path, facts)
