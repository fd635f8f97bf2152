"""What is wrong with a corpus, and what was counted while looking."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from infra.storage import Storage
from schemas.corpus import ObjectEntry
from schemas.digest import sha256_hex
from schemas.errors import NotFoundError

REBUILD: Final = "delete it and run the build again"
FAULT: Final = "a fault of the program that wrote it; ingest into a new corpus"

Tally = Counter[tuple[str, ...]]
"""How many of each kind of thing."""


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One thing that is not as it must be."""

    where: str
    """Path below the corpus."""
    what: str
    way_out: str


@dataclass(slots=True)
class Checked:
    """What a unit of work found."""

    findings: list[Finding] = field(default_factory=list[Finding])
    tally: Tally = field(default_factory=Counter[tuple[str, ...]])
    num_objects: int = 0
    num_bytes: int = 0

    def blame(self, where: str, what: str, way_out: str = REBUILD) -> None:
        """Note a finding."""
        self.findings.append(Finding(where, what, way_out))

    def expect(self, where: str, name: str, wanted: int, found: int) -> None:
        """Note a finding if two numbers differ."""
        if wanted != found:
            self.blame(where, f"{found} {name}, {wanted} were written", FAULT)

    def add(self, other: "Checked") -> None:
        """Add what another unit found."""
        self.findings += other.findings
        self.tally.update(other.tally)
        self.num_objects += other.num_objects
        self.num_bytes += other.num_bytes

    def read(self, storage: Storage, entry: ObjectEntry) -> bytes | None:
        """An object, whole; None, and a finding, when it is not as it was written."""
        self.num_objects += 1
        try:
            data = storage.read_bytes(entry.path)
        except NotFoundError:
            self.blame(entry.path, "is not there", "run the build again")
            return None
        self.num_bytes += len(data)
        if len(data) != entry.num_bytes:
            self.blame(entry.path, f"{len(data)} bytes, {entry.num_bytes} were written")
        elif sha256_hex(data) != entry.sha256:
            self.blame(entry.path, "does not hold the bytes that were written")
        else:
            return data
        return None
