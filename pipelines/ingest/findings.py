"""What the probe found out about media: what a medium is, or why it cannot be used.

Two plain records; the cache of the probe keeps them as MessagePack arrays. Between the stages of ingest they
travel as columns (`found_media`).
"""

from dataclasses import dataclass

import msgspec

from schemas.errors import RejectCode


class FoundMedium(msgspec.Struct, frozen=True, array_like=True, tag=1, gc=False):
    """Where a medium is, and what it is: the fields of `MediumFacts`, and more."""

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
