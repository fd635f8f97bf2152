"""What earlier runs found out about media, so that an unchanged file is not read again.

A finding holds for a file of the same place, size, time of change and (on S3) entity tag. The cache is no
part of the corpus: no manifest lists it, and without it media are just read again. It lies beside the tables,
in objects named by what they hold, cut by the leading bits of the hash by which requests are dealt out; a
run with more or fewer buckets reads the files that overlap its own.

Trusting size and time is what `make` and `rsync` do too. A file that was changed behind both is found out
when its shard is written, and `onetoken ingest --reread` begins with an empty cache. What does not follow
from the bytes of a file (it may not be read, a decoder took too long) is not kept: that may be mended, and
leaves size and time as they are.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from infra.files import FileState
from infra.storage import Storage
from pipelines.ingest.findings import Finding, FoundMedium
from schemas.digest import SHORT, sha256_hex
from schemas.errors import NotFoundError, RejectCode
from schemas.record import MediumKind

FOLDER: Final = "probes"
_VERSION: Final = "v1"
_ALL: Final = "all"
_MAY_PASS: Final = frozenset(
    {
        RejectCode.MISSING_FILE,
        RejectCode.UNREADABLE_FILE,
        RejectCode.DECODER_TIMEOUT,
        RejectCode.DECODER_CRASH,
        RejectCode.DECODER_OUT_OF_MEMORY,
    }
)
"""Codes that tell of a machine, not of the bytes of a file."""


class CachedFinding(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A finding, and the state of the file that it holds for."""

    bucket_hash: int
    root: str
    location: str
    kind: MediumKind
    num_bytes: int
    mtime_ns: int
    etag: str
    finding: Finding

    def holds_for(self, state: FileState) -> bool:
        """Whether the file is still the one that was read."""
        return (self.num_bytes, self.mtime_ns, self.etag) == (state.num_bytes, state.mtime_ns, state.etag)


class CachedRows(msgspec.Struct, frozen=True, array_like=True):
    """Findings in a range of rows, and the state of the file that they hold for."""

    num_bytes: int
    mtime_ns: int
    etag: str
    rows: list[list[Finding]]


_ENCODER: Final = msgspec.msgpack.Encoder()
_FINDINGS: Final = msgspec.msgpack.Decoder(list[CachedFinding])
_ROWS: Final = msgspec.msgpack.Decoder(CachedRows)


@dataclass(frozen=True, slots=True)
class ProbeCache:
    """The cache of a corpus, as it stood when the run began."""

    storage: Storage
    paths: tuple[str, ...]

    def read(self, group: str, bits: str) -> Iterator[CachedFinding]:
        """Findings of a group whose hash begins with these bits."""
        for path in self.paths:
            if _overlaps(path, group, bits):
                data = self._read_object(path)
                rows = _FINDINGS.decode(data) if data else []
                yield from (row for row in rows if _begins(row, bits))

    def write(self, group: str, bits: str, rows: Iterable[CachedFinding]) -> str | None:
        """Store the findings of a group; the path of the object, None where there are none."""
        lasting = [
            row for row in rows if isinstance(row.finding, FoundMedium) or row.finding.code not in _MAY_PASS
        ]
        return self._write_object(group, bits, _ENCODER.encode(lasting)) if lasting else None

    def read_rows(self, group: str, state: FileState) -> list[list[Finding]] | None:
        """Findings in a range of rows, if the file is still the same."""
        for path in self.paths:
            data = self._read_object(path) if _overlaps(path, group, "") else b""
            if data:
                cached = _ROWS.decode(data)
                if (cached.num_bytes, cached.mtime_ns, cached.etag) == (
                    state.num_bytes,
                    state.mtime_ns,
                    state.etag,
                ):
                    return cached.rows
        return None

    def write_rows(self, group: str, state: FileState, rows: list[list[Finding]]) -> str:
        """Store the findings in a range of rows; the path of the object."""
        cached = CachedRows(state.num_bytes, state.mtime_ns, state.etag, rows)
        return self._write_object(group, "", _ENCODER.encode(cached))

    def _write_object(self, group: str, bits: str, data: bytes) -> str:
        path = f"{FOLDER}/{group}-{bits or _ALL}-{_VERSION}-{sha256_hex(data)[:SHORT]}"
        if path not in self.paths or not self._read_object(path):
            self.storage.write_scratch(path, [data])
        return path

    def _read_object(self, path: str) -> bytes:
        """The bytes of an object; none when it is damaged or gone."""
        try:
            data = self.storage.read_bytes(path)
        except NotFoundError:
            return b""
        return data if sha256_hex(data)[:SHORT] == path.rpartition("-")[2] else b""


def open_cache(storage: Storage, reread: bool = False) -> ProbeCache:
    """The cache of a corpus, emptied where media shall be read again, so that no later run believes it."""
    paths = tuple(storage.list(FOLDER))
    if not reread:
        return ProbeCache(storage, paths)
    for path in paths:
        storage.remove(path)
    return ProbeCache(storage, ())


def drop_superseded(
    storage: Storage, before: ProbeCache, written: Mapping[tuple[str, str], str | None]
) -> None:
    """Remove objects that newer ones replace.

    Args:
        storage: the corpus.
        before: the cache that the run began with.
        written: the object that was written for each group and bits, if any.
    """
    bits_of: dict[str, set[str]] = {}
    for group, bits in written:
        bits_of.setdefault(group, set()).add(bits)
    for path in set(before.paths) - set(written.values()):
        group, held = _parse(path)
        if _is_covered(held, bits_of.get(group, set())):
            storage.remove(path)


def _is_covered(held: str, bits: set[str]) -> bool:
    """Whether everything that begins with `held` begins with one of `bits`."""
    if any(held.startswith(prefix) for prefix in bits):
        return True
    inside = [prefix for prefix in bits if prefix.startswith(held)]
    return bool(inside) and sum(2.0 ** (len(held) - len(prefix)) for prefix in inside) == 1.0


def _overlaps(path: str, group: str, bits: str) -> bool:
    owner, held = _parse(path)
    return owner == group and (held.startswith(bits) or bits.startswith(held))


def _parse(path: str) -> tuple[str, str]:
    """Group and bits of an object's name; nobody's for another version."""
    group, held, version, *_ = [*path.rpartition("/")[2].split("-"), "", "", ""]
    return (group, "" if held == _ALL else held) if version == _VERSION else ("", "")


def _begins(row: CachedFinding, bits: str) -> bool:
    return not bits or row.bucket_hash >> (64 - len(bits)) == int(bits, 2)
