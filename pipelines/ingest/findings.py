"""What the probe found out about media, as it travels between the stages of ingest.

Two plain records, written as MessagePack arrays: what a medium is, or why it cannot be used. A blob of
findings answers a blob of references, position by position.
"""

from dataclasses import dataclass
from typing import Final

import msgspec
import xxhash

from schemas.errors import RejectCode
from schemas.medium import MediumFacts
from schemas.record import MediumKind, MediumReference


class FoundMedium(msgspec.Struct, frozen=True, array_like=True, tag=1, gc=False):
    """Where a medium is, and what it is."""

    sha256: str
    kind: str
    extension: str
    num_bytes: int
    width_px: int
    height_px: int
    duration_s: float
    location: str
    is_by_stem: bool = False
    """The record gives another extension, and there is no such file."""

    @property
    def values(self) -> tuple[object, ...]:
        """What the table of media has columns for, in their order."""
        return msgspec.structs.astuple(self)[:-1]

    @property
    def facts(self) -> MediumFacts:
        """The part that does not depend on where the medium is."""
        size = (self.num_bytes, self.width_px, self.height_px, self.duration_s)
        return MediumFacts(self.sha256, MediumKind(self.kind), self.extension, *size)


class RejectedMedium(msgspec.Struct, frozen=True, array_like=True, tag=0, gc=False):
    """Why a medium cannot be used."""

    code: RejectCode
    message: str


Finding = FoundMedium | RejectedMedium


@dataclass(frozen=True, slots=True)
class ProbeCounts:
    """What a unit did; `unchanged` are media that an earlier run had read."""

    num_read: int = 0
    num_bytes_read: int = 0
    num_unchanged: int = 0

    def __add__(self, other: "ProbeCounts") -> "ProbeCounts":
        return ProbeCounts(
            self.num_read + other.num_read,
            self.num_bytes_read + other.num_bytes_read,
            self.num_unchanged + other.num_unchanged,
        )


_HASH_BITS: Final = 64
_KIND_NAMES: Final = {kind: kind.value for kind in MediumKind}
_ENCODER: Final = msgspec.msgpack.Encoder()
_FINDINGS: Final = msgspec.msgpack.Decoder(list[Finding])
_ROWS: Final = msgspec.msgpack.Decoder(list[list[Finding]])
_REFERENCES: Final = msgspec.msgpack.Decoder(list[MediumReference])


def describe_found(location: str, facts: MediumFacts, is_by_stem: bool = False) -> FoundMedium:
    """A finding of facts at a location."""
    digest, kind, extension, num_bytes, width_px, height_px, duration_s = facts
    name = _KIND_NAMES[kind]
    return FoundMedium(
        digest, name, extension, num_bytes, width_px, height_px, duration_s, location, is_by_stem
    )


def pack_references(references: list[MediumReference]) -> bytes:
    """References as a blob; none is the empty blob."""
    return _ENCODER.encode(references) if references else b""


def unpack_references(blob: bytes) -> list[MediumReference]:
    """References of a blob."""
    return _REFERENCES.decode(blob) if blob else []


def pack_findings(findings: list[Finding]) -> bytes:
    """Findings as a blob; none is the empty blob."""
    return _ENCODER.encode(findings) if findings else b""


def unpack_findings(blob: bytes) -> list[Finding]:
    """Findings of a blob."""
    return _FINDINGS.decode(blob) if blob else []


def pack_row_findings(rows: list[list[Finding]]) -> bytes:
    """Findings of embedded media, row by row, as a blob."""
    return _ENCODER.encode(rows)


def unpack_row_findings(blob: bytes) -> list[list[Finding]]:
    """Findings of embedded media, row by row."""
    return _ROWS.decode(blob) if blob else []


def request_hash(reference: MediumReference) -> int:
    """64 bits that spread media evenly: sources that name the same file find it in the same bucket."""
    return xxhash.xxh3_64_intdigest(str(reference.path).encode())


def request_bucket(reference: MediumReference, bits: int) -> int:
    """The bucket that a reference belongs to."""
    return request_hash(reference) >> (_HASH_BITS - bits)
