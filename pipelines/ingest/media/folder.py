"""Media in a local folder.

Symbolic links are followed into the media root itself or one of the folders that the recipe allows besides
(`also_under`), never elsewhere; the root and those folders may be links. Only plain files are read: pipes,
devices and folders are refused, without waiting for them.

Following a path to its end costs more than reading a small file, so each folder is followed once per worker
and then trusted; below it a file is opened by name and may not be a link. Where it is one, that file takes
the slow way. So what the check holds off is what lies in an unpacked archive, not somebody who swaps folders
while ingest runs. The listing of a folder is read when a name is first missing in it, and kept; a folder of
200,000 names takes some 30 MB, and `MAX_LISTED` bounds all of them.
"""

import errno
import os
import posixpath
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from infra.files import FileState
from pipelines.ingest.media.root import (
    check_medium_size,
    choose_one,
    has_extension_of,
    has_medium_extension,
    join_path,
    normalize_path,
    split_path,
    unreadable,
    wanted_stem,
)
from schemas.errors import RejectCode, SampleError
from schemas.record import MediumKind, MediumReference

MAX_LISTED = 500_000
"""Names of files in listings that are kept."""
MAX_FOLLOWED: Final = 100_000
"""Folders that are known to lie where they may."""
_READ_ONLY: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_GONE: Final = (FileNotFoundError, NotADirectoryError)

Listing = dict[str, list[str]]
"""Names by stem."""


class MediaFolder:
    """A folder that holds the media of a source."""

    def __init__(self, root: Path | str, also_under: Iterable[str] = ()) -> None:
        self.url = os.path.abspath(root)
        self._root = os.path.realpath(root)
        self._allowed = (self._root, *(os.path.realpath(folder) for folder in also_under))
        self._followed: dict[str, str] = {}
        self._listings: dict[str, Listing] = {}
        self._num_listed = 0
        self._opened: tuple[str, int, os.stat_result] | None = None

    def find(self, reference: MediumReference) -> str:
        """See `MediaRoot.find`; the file stays open for `state` and `read`, until the next is asked for."""
        if self._opened is not None:
            self._let_go()
        location = normalize_path(reference.path or "")
        try:
            opened = self._opened = self._open(location)
        except _GONE:
            return self._find_by_stem(location, reference)
        except OSError as error:
            raise unreadable(location, error.strerror) from error
        if stat.S_ISREG(opened[2].st_mode):
            return location
        self._let_go()
        if not reference.by_stem:
            raise unreadable(location, "no plain file")
        return self._find_by_stem(location, reference)

    def state(self, location: str) -> FileState:
        """See `MediaRoot.state`."""
        opened = self._opened
        status = opened[2] if opened is not None and opened[0] == location else self._status(location)
        if status is None:
            raise SampleError(RejectCode.MISSING_FILE, f"{location!r} is not there")
        return FileState(status.st_size, status.st_mtime_ns)

    def read(self, location: str, kind: MediumKind) -> bytes:
        """See `MediaRoot.read`."""
        try:
            opened = self._opened
            if opened is None or opened[0] != location:
                self._let_go()
                opened = self._opened = self._open(location)
            return _read_whole(*opened, kind)
        except _GONE as error:
            raise SampleError(RejectCode.MISSING_FILE, f"{location!r} is not there") from error
        except OSError as error:
            raise unreadable(location, error.strerror) from error
        finally:
            self._let_go()

    def _let_go(self) -> None:
        if self._opened is not None:
            os.close(self._opened[1])
            self._opened = None

    def _open(self, location: str) -> tuple[str, int, os.stat_result]:
        folder, _, name = location.rpartition("/")
        real = self._followed.get(folder) or self._follow_folder(folder)
        try:
            descriptor = os.open(f"{real}/{name}", _READ_ONLY)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            descriptor = os.open(self._follow(location), _READ_ONLY)
        return location, descriptor, os.fstat(descriptor)

    def _status(self, location: str) -> os.stat_result | None:
        """What lies at a location, at the end of all links; None when nothing does."""
        folder, name = split_path(location)
        try:
            status = os.lstat(f"{self._follow_folder(folder)}/{name}")
            if stat.S_ISLNK(status.st_mode):
                status = os.stat(self._follow(location))
        except _GONE:
            return None
        except OSError as error:
            raise unreadable(location, error.strerror) from error
        return status

    def _follow_folder(self, folder: str) -> str:
        """The real path of a folder, below a folder that is allowed; followed once."""
        real = self._followed.get(folder)
        if real is None:
            if len(self._followed) >= MAX_FOLLOWED:
                self._followed.clear()
            real = self._followed[folder] = self._follow(folder)
        return real

    def _follow(self, location: str) -> str:
        """The real path of a location, below a folder that is allowed."""
        real = os.path.realpath(posixpath.join(self._root, location))
        if not any(os.path.commonpath([folder, real]) == folder for folder in self._allowed):
            message = f"{location!r} is a link that leaves the media root; also_under may allow its target"
            raise SampleError(RejectCode.UNSAFE_PATH, message)
        return real

    def _find_by_stem(self, location: str, reference: MediumReference) -> str:
        folder, name = split_path(location)
        same_stem = self._list(folder).get(wanted_stem(name, reference), ())
        names = [name for name in same_stem if has_extension_of(name, reference.kind)]
        return join_path(
            folder, choose_one(location, (n for n in names if self._is_plain(join_path(folder, n))))
        )

    def _is_plain(self, location: str) -> bool:
        status = self._status(location)
        return status is not None and stat.S_ISREG(status.st_mode)

    def _list(self, folder: str) -> Listing:
        """Names in a folder that could be media, by stem."""
        if folder not in self._listings:
            listing: Listing = {}
            num_names = 0
            try:
                for name in filter(has_medium_extension, os.listdir(self._follow_folder(folder))):
                    listing.setdefault(posixpath.splitext(name)[0], []).append(name)
                    num_names += 1
            except OSError:
                listing = {}  # what cannot be listed holds nothing that could be found
            self._keep(folder, listing, num_names)
        return self._listings[folder]

    def _keep(self, folder: str, listing: Listing, num_names: int) -> None:
        if self._num_listed + num_names > MAX_LISTED:
            self._listings.clear()
            self._num_listed = 0
        self._listings[folder] = listing
        self._num_listed += num_names


def _read_whole(location: str, descriptor: int, status: os.stat_result, kind: MediumKind) -> bytes:
    if not stat.S_ISREG(status.st_mode):
        raise unreadable(location, "no plain file")
    check_medium_size(location, status.st_size, kind)
    data = os.read(descriptor, status.st_size + 1)
    if len(data) == status.st_size:
        return data
    pieces = [data]
    while len(data) and sum(map(len, pieces)) <= status.st_size:
        data = os.read(descriptor, status.st_size + 1)
        pieces.append(data)
    whole = b"".join(pieces)
    if len(whole) != status.st_size:
        raise unreadable(location, "its size changes while it is read")
    return whole
