"""Zip archives: their directory as a stream of members, and one member's bytes.

The standard library's reader makes an object of a kilobyte for each member, half a gigabyte for the 558,128
pictures of the largest published archive. Only its 46-byte directory entries are needed here, so they are
read one after another and forgotten.

An archive is a stranger's file. Sizes are believed only as far as they can be checked: the directory has to
lie before its own end record, a member within the archive and under the limits; unpacking stops at the size
that was declared, and the checksum decides. Read are members that are stored or deflated; encrypted ones,
links, and the rare methods are listed with the problem. Split archives are refused.
"""

import os
import stat
import struct
import zlib
from collections.abc import Iterator
from typing import Final, NamedTuple

from pipelines.ingest.media.archive_member import DEFLATED, STORED, ArchiveMember
from pipelines.ingest.media.root import normalize_path, too_large, unreadable
from schemas.errors import CorruptError, SampleError
from schemas.record import MediumKind

MAX_EXPANSION: Final = 200
"""Bytes that a stored byte may become; pictures and clips hardly shrink, bombs do."""
SMALL_BYTES: Final = 1 << 20
"""Up to this size a member may expand as it likes: blank bitmaps do."""
SIGNATURES: Final = (b"PK\x03\x04", b"PK\x05\x06")
"""How a zip begins; the second one is empty."""

_END: Final = struct.Struct("<4s4H2LH")
_END64: Final = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64: Final = struct.Struct("<4sLQL")
_ENTRY: Final = struct.Struct("<4s6H3L5H2L")
_LOCAL: Final = struct.Struct("<4s5H3L2H")
_MAX_COMMENT_BYTES: Final = 0xFFFF
_SMALL_PACKED_BYTES: Final = 1 << 10
_WINDOW_BYTES: Final = 1 << 20
_UNKNOWN32: Final = 0xFFFFFFFF
_IS_ENCRYPTED: Final = 0x2041
_IS_UTF8: Final = 0x800
_UNIX: Final = 3
_EXTRA64: Final = 1


class _Directory(NamedTuple):
    num_members: int
    offset: int
    end: int


class _Entry(NamedTuple):
    """A directory entry, as it stands there."""

    signature: bytes
    made_by: int
    needs: int
    flags: int
    method: int
    time: int
    date: int
    crc: int
    stored_bytes: int
    num_bytes: int
    name_bytes: int
    extra_bytes: int
    comment_bytes: int
    disk: int
    internal: int
    attributes: int
    offset: int


def list_zip(descriptor: int) -> Iterator[ArchiveMember]:
    """The members of a zip that have a usable name, in the order of its directory; folders are left out.

    Raises:
        CorruptError: when it is cut, split, or its directory is damaged.
    """
    directory = _find_directory(descriptor)
    window = b""
    start = directory.offset
    position = 0
    for _ in range(directory.num_members):
        if position + _ENTRY.size + 3 * 0xFFFF > len(window) and start + len(window) < directory.end:
            start, position = start + position, 0
            window = os.pread(descriptor, min(_WINDOW_BYTES, directory.end - start), start)
        try:
            entry = _Entry._make(_ENTRY.unpack_from(window, position))
        except struct.error as error:
            raise CorruptError("its directory is cut; download the archive again") from error
        name_at = position + _ENTRY.size
        extra_at = name_at + entry.name_bytes
        comment_at = extra_at + entry.extra_bytes
        position = comment_at + entry.comment_bytes
        if entry.signature != b"PK\x01\x02" or position > len(window):
            raise CorruptError("its directory is damaged; download the archive again")
        member = _describe(entry, window[name_at:extra_at], window[extra_at:comment_at])
        if member is not None:
            yield member


def read_zip_member(descriptor: int, member: ArchiveMember, kind: MediumKind) -> bytes:
    """The bytes of a member, unpacked and checked.

    Raises:
        SampleError: UNREADABLE_FILE, or IMAGE_TOO_LARGE or VIDEO_TOO_LARGE for what expands too far.
    """
    if member.num_bytes > max(SMALL_BYTES, MAX_EXPANSION * member.stored_bytes):
        raise too_large(
            member.name, member.num_bytes, kind, f"its {member.stored_bytes} packed bytes may not be"
        )
    header = os.pread(descriptor, _LOCAL.size, member.offset)
    if len(header) < _LOCAL.size or not header.startswith(b"PK\x03\x04"):
        raise unreadable(member.name, "the archive has no member where its directory says")
    name_bytes, extra_bytes = _LOCAL.unpack(header)[9:]
    offset = member.offset + _LOCAL.size + name_bytes + extra_bytes
    stored = read_fully(descriptor, offset, member.stored_bytes)
    if len(stored) < member.stored_bytes:
        raise unreadable(member.name, "the archive ends inside it")
    data = stored if member.method == STORED else _inflate(member, stored)
    if len(data) != member.num_bytes or zlib.crc32(data) != member.crc:
        raise unreadable(member.name, "its bytes are not those that the archive declares")
    return data


def read_fully(descriptor: int, offset: int, length: int) -> bytes:
    """A range of a file; shorter only where the file ends."""
    data = os.pread(descriptor, length, offset)
    if len(data) in (0, length):
        return data
    pieces = [data]
    got = len(data)
    while got < length and (data := os.pread(descriptor, length - got, offset + got)):
        pieces.append(data)
        got += len(data)
    return b"".join(pieces)


def _inflate(member: ArchiveMember, stored: bytes) -> bytes:
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = unpacker.decompress(stored, member.num_bytes + 1)
    except zlib.error as error:
        raise unreadable(member.name, f"its packed bytes are damaged: {error}") from error
    if len(data) > member.num_bytes or not unpacker.eof:
        raise unreadable(member.name, "it unpacks to another size than the archive declares")
    return data


def _describe(entry: _Entry, raw_name: bytes, extra: bytes) -> ArchiveMember | None:
    """What a directory entry says; None for folders and for names that no record can have."""
    try:
        name = normalize_path(_decode_name(raw_name, entry.flags))
    except SampleError:
        return None
    if raw_name.endswith(b"/"):
        return None
    sizes: list[int] | None = [entry.num_bytes, entry.stored_bytes, entry.offset]
    if _UNKNOWN32 in sizes:
        sizes = _read_wide(extra, *sizes)
    if sizes is None or max(sizes) >> 63:
        return ArchiveMember(name, 0, 0, 0, problem="its entry lacks its sizes")
    num_bytes, stored_bytes, offset = sizes
    problem = _find_problem(entry)
    if not problem and entry.method == STORED and stored_bytes != num_bytes:
        problem = "it is stored in another size than it has"
    if not problem and stored_bytes > 2 * num_bytes + _SMALL_PACKED_BYTES:
        problem = "it is larger packed than unpacked"
    return ArchiveMember(name, offset, stored_bytes, num_bytes, entry.method, entry.crc, problem)


def _find_problem(entry: _Entry) -> str:
    mode = entry.attributes >> 16 if entry.made_by >> 8 == _UNIX else 0
    if entry.flags & _IS_ENCRYPTED:
        return "it is encrypted; unpack the archive"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return "no plain file"
    if entry.method not in (STORED, DEFLATED):
        return f"it is packed by method {entry.method}; repack the archive with store or deflate"
    return "it is in another part of the archive" if entry.disk else ""


def _decode_name(raw: bytes, flags: int) -> str:
    """UTF-8 where it is, whatever the flag says: many writers forget it."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("utf-8", "replace") if flags & _IS_UTF8 else raw.decode("cp437")


def _read_wide(extra: bytes, *values: int) -> list[int] | None:
    """The values with those that do not fit 32 bits taken from the extra field; None where it lacks them."""
    position = 0
    while position + 4 <= len(extra):
        tag, length = struct.unpack_from("<2H", extra, position)
        body = extra[position + 4 : position + 4 + length]
        position += 4 + length
        if tag == _EXTRA64:
            wide = iter(struct.unpack(f"<{len(body) // 8}Q", body[: len(body) // 8 * 8]))
            found = [next(wide, -1) if value == _UNKNOWN32 else value for value in values]
            return None if -1 in found else found
    return None


def _find_directory(descriptor: int) -> _Directory:
    """Where the directory is, from the record at the end of the archive."""
    size = os.fstat(descriptor).st_size
    tail_at = max(0, size - _END.size - _MAX_COMMENT_BYTES)
    tail = os.pread(descriptor, size - tail_at, tail_at)
    position = tail.rfind(b"PK\x05\x06")
    while position >= 0 and not _ends_at(tail, position):
        position = tail.rfind(b"PK\x05\x06", 0, position)
    if position < 0:
        raise CorruptError("its end is missing; download the archive again")
    _, disk, first_disk, _, num_members, num_bytes, offset, _ = _END.unpack_from(tail, position)
    end = tail_at + position
    if 0xFFFF in (disk, num_members) or _UNKNOWN32 in (num_bytes, offset):
        wide = _find_wide(descriptor, end)
        if wide is not None:
            end, disk, first_disk, num_members, num_bytes, offset = wide
    if disk or first_disk:
        raise CorruptError("it is one part of several; join them with: zip -s 0 PART --out WHOLE.zip")
    if offset + num_bytes > end or num_members * _ENTRY.size > num_bytes:
        raise CorruptError("its end record does not fit its size; download the archive again")
    return _Directory(num_members, offset, offset + num_bytes)


def _ends_at(tail: bytes, position: int) -> bool:
    """Whether an end record at a position, with its comment, is the end of the archive."""
    if position + _END.size > len(tail):
        return False
    return position + _END.size + _END.unpack_from(tail, position)[-1] == len(tail)


def _find_wide(descriptor: int, end: int) -> tuple[int, int, int, int, int, int] | None:
    """The 64-bit end record that stands before the one at `end`, if there is one."""
    if end < _LOCATOR64.size:
        return None
    signature, _, at, _ = _LOCATOR64.unpack(os.pread(descriptor, _LOCATOR64.size, end - _LOCATOR64.size))
    if signature != b"PK\x06\x07":
        return None
    record = os.pread(descriptor, _END64.size, at) if at < end else b""
    if len(record) < _END64.size or not record.startswith(b"PK\x06\x06"):
        raise CorruptError("its 64-bit end record is missing; download the archive again")
    _, _, _, _, disk, first_disk, _, num_members, num_bytes, offset = _END64.unpack(record)
    return at, disk, first_disk, num_members, num_bytes, offset
