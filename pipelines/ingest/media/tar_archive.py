"""Uncompressed tars: their members as a stream, and one member's bytes.

The standard library parses the headers (ustar, GNU, pax); it is given the file through a guard that goes only
forward and hands out no more than a header's worth at once, since headers of a stranger's archive may claim
any size, negative ones too. A tar has no directory: listing it reads a block for every member, once (see
`archive_index`). Links, devices and sparse members are listed with the problem and never read.
"""

import io
import os
import tarfile
from collections.abc import Iterator
from typing import Final

from pipelines.ingest.media.archive_member import ArchiveMember
from pipelines.ingest.media.root import normalize_path, unreadable
from pipelines.ingest.media.zip_archive import read_fully
from schemas.errors import CorruptError, SampleError

MAX_HEADER_BYTES: Final = 1 << 20
"""Of an extended header; those of real archives have some hundred."""
_BLOCK_BYTES: Final = 512
_TAR_ERRORS: Final = (
    tarfile.TarError, OSError, EOFError, ValueError, LookupError, ArithmeticError, TypeError, RecursionError,
)  # fmt: skip


def is_tar(head: bytes) -> bool:
    """Whether a file that begins with this block is a tar: its checksum fits."""
    try:
        tarfile.TarInfo.frombuf(head[:_BLOCK_BYTES], "utf-8", "surrogateescape")
    except _TAR_ERRORS:
        return False
    return True


def list_tar(descriptor: int) -> Iterator[ArchiveMember]:
    """The members of a tar that have a usable name, in its order; folders are left out.

    Raises:
        CorruptError: when it is cut or a header is damaged.
    """
    last = ""
    num_bytes = os.fstat(descriptor).st_size
    try:
        with tarfile.open(fileobj=_ForwardFile(descriptor), mode="r:", errorlevel=2) as tar:
            while (info := tar.next()) is not None:
                tar.members = []  # pyright: ignore[reportAttributeAccessIssue]  # it would keep them all
                last = info.name
                if not info.isdir() and (member := _describe(info, num_bytes)) is not None:
                    yield member
            if os.pread(descriptor, _BLOCK_BYTES, tar.offset).strip(b"\0"):
                raise tarfile.ReadError("what follows is no header")
    except _TAR_ERRORS as error:
        place = f"after {last!r}" if last else "at its beginning"
        raise CorruptError(f"it is cut or damaged {place}; download the archive again: {error}") from error


def read_tar_member(descriptor: int, member: ArchiveMember) -> bytes:
    """The bytes of a member.

    Raises:
        SampleError: UNREADABLE_FILE when the archive ends before.
    """
    data = read_fully(descriptor, member.offset, member.num_bytes)
    if len(data) < member.num_bytes:
        raise unreadable(member.name, "the archive ends inside it")
    return data


def _describe(info: tarfile.TarInfo, num_bytes: int) -> ArchiveMember | None:
    try:
        name = normalize_path(info.name)
    except SampleError:
        return None
    if not info.isreg():
        return ArchiveMember(name, 0, 0, 0, problem="no plain file")
    if info.issparse():
        return ArchiveMember(name, 0, 0, 0, problem="it is sparse; unpack the archive")
    if not 0 <= info.size <= num_bytes - info.offset_data:
        raise tarfile.ReadError(f"{name!r} would have {info.size} bytes")
    return ArchiveMember(name, info.offset_data, info.size, info.size)


class _ForwardFile(io.RawIOBase):
    """A file as the tar reader may use it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._num_bytes = os.fstat(descriptor).st_size
        self._offset = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._offset

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        if whence != os.SEEK_SET or offset < self._offset - 1 or offset > self._num_bytes:
            raise tarfile.ReadError("a header leads out of the archive or back")
        self._offset = offset
        return offset

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        data = os.pread(self._descriptor, size, self._offset)
        self._offset += len(data)
        return data
