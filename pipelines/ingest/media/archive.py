"""Media inside a tar or zip, read in place.

Which of the two an archive is, its bytes tell, not its name. Members are looked up in an index on disk
(`archive_index`) and read by position; nothing is unpacked. A name that stands twice in an archive is
ambiguous: that the last one wins is a guess about how the archive was meant.

A compressed tar is refused, since reading one member takes unpacking all before it. Archives lie on local
disks: over the network each member would be several requests.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Literal

from infra.files import FileState
from pipelines.ingest.asked import AskedMedia
from pipelines.ingest.media import zip_archive
from pipelines.ingest.media.archive_index import open_index
from pipelines.ingest.media.archive_member import ArchiveMember
from pipelines.ingest.media.root import (
    Fetched,
    KnownFile,
    check_medium_size,
    choose_one,
    fetch_by_steps,
    has_extension_of,
    join_path,
    normalize_path,
    split_path,
    unreadable,
    wanted_stem,
)
from pipelines.ingest.media.tar_archive import is_tar, list_tar, read_tar_member
from schemas.errors import ConfigError, CorruptError, RejectCode, SampleError
from schemas.record import MediumKind, MediumReference

ArchiveKind = Literal["tar", "zip"]

_COMPRESSED: Final = (
    (b"\x1f\x8b", "gunzip -k"),
    (b"BZh", "bunzip2 -k"),
    (b"\xfd7zXZ\0", "unxz -k"),
    (b"\x28\xb5\x2f\xfd", "unzstd"),
)
"""How compressed files begin, and what undoes it."""


class MediaArchive:
    """An archive that holds the media of a source."""

    def __init__(self, path: Path | str) -> None:
        self.url = os.path.abspath(path)
        self._descriptor = _open_archive(self.url)
        self._asked: tuple[str, list[ArchiveMember]] | None = None
        try:
            self._kind = tell_archive(self.url, os.pread(self._descriptor, 512, 0))
            self._state = self._current_state()
            self._index = open_index(os.path.realpath(self.url), self._state, self._list_members)
        except BaseException:
            os.close(self._descriptor)
            raise

    def find(self, reference: MediumReference) -> str:
        """See `MediaRoot.find`."""
        location = normalize_path(reference.path or "")
        if not self._look_up(location):
            folder, name = split_path(location)
            names = self._index.find_by_stem(folder, wanted_stem(name, reference))
            found = choose_one(location, (name for name in names if has_extension_of(name, reference.kind)))
            location = join_path(folder, found)
        self._member(location)
        return location

    def state(self, location: str) -> FileState:
        """See `MediaRoot.state`: the size of the member, the time of the archive."""
        member = self._member(location)
        return FileState(member.num_bytes, self._state.mtime_ns, f"{self._kind}:{member.offset}:{member.crc}")

    def read(self, location: str, kind: MediumKind) -> bytes:
        """See `MediaRoot.read`.

        Raises:
            CorruptError: when the archive was changed since it was opened.
        """
        member = self._member(location)
        check_medium_size(location, member.num_bytes, kind)
        try:
            if self._kind == "zip":
                data = zip_archive.read_zip_member(self._descriptor, member, kind)
            else:
                data = read_tar_member(self._descriptor, member)
        except OSError as error:
            raise unreadable(location, error.strerror) from error
        if self._current_state() != self._state:
            raise CorruptError(f"{self.url} was changed while it was read; run the command again")
        return data

    def fetch(self, asked: AskedMedia, known: Mapping[str, KnownFile]) -> Iterator[Fetched | SampleError]:
        """See `MediaRoot.fetch`."""
        return fetch_by_steps(self, asked, known)

    def close(self) -> None:
        """Let go of the archive and its index."""
        self._index.close()
        os.close(self._descriptor)

    def _member(self, location: str) -> ArchiveMember:
        members = self._look_up(location)
        if not members:
            raise SampleError(RejectCode.MISSING_FILE, f"{location!r} is not there")
        if len(members) > 1:
            message = f"{location!r} stands {len(members)} times in the archive"
            raise SampleError(RejectCode.AMBIGUOUS_FILE, message)
        if members[0].problem:
            raise unreadable(location, members[0].problem)
        return members[0]

    def _look_up(self, location: str) -> list[ArchiveMember]:
        """The members at a location; `find`, `state` and `read` ask for the same one in turn."""
        if self._asked is None or self._asked[0] != location:
            self._asked = location, self._index.find_by_name(location)
        return self._asked[1]

    def _current_state(self) -> FileState:
        status = os.fstat(self._descriptor)
        return FileState(status.st_size, status.st_mtime_ns)

    def _list_members(self) -> Iterator[ArchiveMember]:
        list_members = zip_archive.list_zip if self._kind == "zip" else list_tar
        try:
            yield from list_members(self._descriptor)
        except CorruptError as error:
            raise CorruptError(f"{self._kind} {self.url}: {error}") from error


def tell_archive(path: str, head: bytes) -> ArchiveKind:
    """Which kind of archive a file is.

    Args:
        path: for messages.
        head: its first 512 bytes.

    Raises:
        ConfigError: when it is none, or a compressed one.
    """
    if head.startswith(zip_archive.SIGNATURES):
        return "zip"
    if is_tar(head):
        return "tar"
    for signature, command in _COMPRESSED:
        if head.startswith(signature):
            raise ConfigError(
                f"{path} is compressed: reading one member would unpack all before it; "
                f"run `{command} {path}` once and name the result"
            )
    raise ConfigError(f"{path} is no folder, no tar and no zip")


def _open_archive(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
