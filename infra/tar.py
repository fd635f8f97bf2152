"""Shards: deterministic tars with an index beside them.

A shard is plain USTAR, so `tar tf`, Python's tarfile and webdataset read it. Everything that could differ
between two machines is fixed: members come sorted by name, and time, owner and mode are constants. So the
same members give the same bytes, which are those that Python's tarfile would write; they are hashed on the
way out.

Writes go out in blocks of 4 MiB: a file that was written in small pieces lies in small pages of the page
cache and is read three times slower.

The index (`.idx`) is canonical JSON, `{"format":1,"members":[[name, offset, size, xxh3_64 as hex], ...]}`,
offsets being those of the data. It saves a scan and can always be rebuilt by one (`scan_tar`).

Left out: long names, links, folders and members of 8 GiB, all of which need extended headers.
"""

import hashlib
import json
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any, Final, Protocol, cast

import xxhash

from schemas.digest import canonical_json
from schemas.errors import CorruptError, WorkError

INDEX_FORMAT: Final = 1
MAX_MEMBER_BYTES: Final = 8 * 2**30 - 1
WRITE_BYTES: Final = 4 * 2**20
MODE: Final = 0o644
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,98}")
_BLOCK: Final = tarfile.BLOCKSIZE


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a shard: where its data lie, and their checksum."""

    name: str
    offset: int
    size: int
    xxh3: str


@dataclass(frozen=True, slots=True)
class WrittenShard:
    """What was written."""

    members: tuple[Member, ...]
    sha256: str
    num_bytes: int


class Readable(Protocol):
    """What is read from start to end."""

    def read(self, size: int, /) -> bytes:
        """The next `size` bytes, fewer at the end."""
        ...


class _BlockWriter:
    """Collects small writes into large ones, and hashes them."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._waiting = bytearray()
        self._hash = hashlib.sha256()
        self.position = 0

    def write(self, data: bytes) -> None:
        rest = memoryview(data)
        while len(rest):
            room = WRITE_BYTES - len(self._waiting)
            self._waiting += rest[:room]
            rest = rest[room:]
            if len(self._waiting) == WRITE_BYTES:
                self._write_waiting()
        self.position += len(data)

    def pad(self, multiple: int) -> None:
        self.write(bytes(-self.position % multiple))

    def finish(self) -> str:
        """Write the rest; the sha256 of everything."""
        self._write_waiting()
        return self._hash.hexdigest()

    def _write_waiting(self) -> None:
        self._file.write(self._waiting)
        self._hash.update(self._waiting)
        self._waiting.clear()


def write_shard(members: Iterable[tuple[str, bytes]], file: IO[bytes]) -> WrittenShard:
    """Write a tar of (name, data) in order of names to a binary file.

    Raises:
        WorkError: for names that are out of order, twice there, too long or of odd characters, and for
            members that USTAR cannot hold.
    """
    writer = _BlockWriter(file)
    written: list[Member] = []
    for name, data in members:
        _check_member(name, len(data), written[-1].name if written else "")
        writer.write(_pack_header(name, len(data)))
        written.append(Member(name, writer.position, len(data), xxhash.xxh3_64_hexdigest(data)))
        writer.write(data)
        writer.pad(_BLOCK)
    writer.write(bytes(2 * _BLOCK))
    writer.pad(tarfile.RECORDSIZE)
    return WrittenShard(tuple(written), writer.finish(), writer.position)


def pack_index(members: Iterable[Member]) -> bytes:
    """The bytes of an index."""
    rows = [[member.name, member.offset, member.size, member.xxh3] for member in members]
    return canonical_json({"format": INDEX_FORMAT, "members": rows})


def check_member(member: Member, data: bytes, where: str) -> bytes:
    """The data of a member, when they are those that were written.

    Raises:
        CorruptError: when they are not.
    """
    if xxhash.xxh3_64_hexdigest(data) != member.xxh3:
        raise CorruptError(f"{where}: {member.name} is damaged; delete the shard and build again")
    return data


def read_index(data: bytes) -> tuple[Member, ...]:
    """The members that an index lists.

    Raises:
        CorruptError: when it is no index, or one of an unknown format.
    """
    try:
        value: Any = json.loads(data)
    except ValueError as error:
        raise CorruptError(f"an index is not readable as JSON: {error}") from error
    if not isinstance(value, dict) or cast(dict[str, Any], value).get("format") != INDEX_FORMAT:
        raise CorruptError(f"no index of format {INDEX_FORMAT}: {data[:60]!r}; rebuild it from its tar")
    rows = cast(dict[str, Any], value).get("members")
    if not isinstance(rows, list):
        raise CorruptError("an index lists no members; rebuild it from its tar")
    return tuple(_read_row(row) for row in cast(list[Any], rows))


def scan_tar(file: IO[bytes]) -> tuple[Member, ...]:
    """The members of a shard by reading it from the start: what its index must say.

    Raises:
        CorruptError: when it is cut short, damaged, or not as `write_shard` writes it.
    """
    return tuple(_scan(file))


def read_members(file: Readable) -> Iterator[tuple[Member, bytes]]:
    """The members of a shard with their data, each whole in memory, from the start of the shard.

    Raises:
        CorruptError: when any byte that is not data is not as `write_shard` writes it.
    """
    offset = 0
    previous = ""
    while (header := file.read(_BLOCK)) != bytes(_BLOCK):
        name, size = _read_header(header, offset)
        if name <= previous:
            raise CorruptError(f"member {name} of a tar comes after {previous}: not a shard")
        offset += _BLOCK
        data, padding = file.read(size), file.read(-size % _BLOCK)
        if len(data) < size or padding != bytes(-size % _BLOCK):
            raise CorruptError(f"a tar ends inside member {name}, or its padding is not zero")
        yield Member(name, offset, size, xxhash.xxh3_64_hexdigest(data)), data
        previous = name
        offset += size + len(padding)
    rest = _BLOCK + -(offset + 2 * _BLOCK) % tarfile.RECORDSIZE
    if file.read(rest + 1) != bytes(rest):
        raise CorruptError(f"a tar does not end as a shard does after byte {offset}")


def _check_member(name: str, size: int, previous: str) -> None:
    if not _NAME.fullmatch(name):
        raise WorkError(f"{name!r} is no member name: use letters, digits, '.', '-', '_', at most 99 of them")
    if name <= previous:
        raise WorkError(f"member {name} comes after {previous}; sort the members by name, each once")
    if size > MAX_MEMBER_BYTES:
        raise WorkError(f"member {name} of {size} bytes is too large for a tar without extended headers")


def _pack_header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = size
    member.mode = MODE
    return member.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


def _read_row(row: object) -> Member:
    match row:
        case [str(name), int(offset), int(size), str(xxh3)] if offset >= 0 and size >= 0:
            return Member(name, offset, size, xxh3)
        case _:
            raise CorruptError(f"{row!r} is no row of an index; rebuild it from its tar")


def _scan(file: IO[bytes]) -> Iterator[Member]:
    offset = 0
    previous = ""
    while True:
        header = file.read(_BLOCK)
        offset += _BLOCK
        if header == bytes(_BLOCK):
            return
        name, size = _read_header(header, offset - _BLOCK)
        if name <= previous:
            raise CorruptError(f"member {name} of a tar comes after {previous}: not a shard")
        yield Member(name, offset, size, _digest_data(file, name, size))
        previous = name
        offset += size + -size % _BLOCK


def _read_header(header: bytes, offset: int) -> tuple[str, int]:
    try:
        member = tarfile.TarInfo.frombuf(header, "ascii", "strict")
    except (tarfile.HeaderError, UnicodeDecodeError) as error:
        raise CorruptError(f"no header of a tar at byte {offset}: {error}") from error
    is_ours = _NAME.fullmatch(member.name) and 0 <= member.size <= MAX_MEMBER_BYTES
    if not is_ours or header != _pack_header(member.name, member.size):
        raise CorruptError(f"the header at byte {offset} of a tar was not written for a shard")
    return member.name, member.size


def _digest_data(file: IO[bytes], name: str, size: int) -> str:
    digest = xxhash.xxh3_64()
    left = size
    while left:
        data = file.read(min(left, WRITE_BYTES))
        if not data:
            raise CorruptError(f"a tar ends inside member {name}")
        digest.update(data)
        left -= len(data)
    padding = -size % _BLOCK
    if len(file.read(padding)) < padding:
        raise CorruptError(f"a tar ends inside member {name}")
    return digest.hexdigest()
