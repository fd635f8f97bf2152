"""Media in a local folder.

Symbolic links are followed into the media root itself or one of the folders that the recipe allows besides
(`also_under`), never elsewhere; the root and those folders may be links. Only plain files are read: pipes,
devices and folders are refused, without waiting for them.

Following a path to its end costs more than reading a small file, so each folder is followed once per worker
and then trusted; below it a file is opened by name and may not be a link. Where it is one, or is unusual in
any other way, it takes the slow way, step by step. So what the check holds off is what lies in an unpacked
archive, not somebody who swaps folders while ingest runs. The listing of a folder is read when a name is
first missing in it, and kept; a folder of 200,000 names takes some 30 MB, and `MAX_LISTED` bounds all of
them.
"""

import errno
import os
import posixpath
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from infra.files import FileState
from pipelines.ingest.asked import AskedMedia
from pipelines.ingest.media.root import (
    PLAIN_PATH,
    Fetched,
    KnownFile,
    check_medium_size,
    choose_one,
    fetch_one,
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
SHORT_BYTES: Final = 16 << 20
"""What reading more than this takes makes all else that is done about a file nothing."""
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

    def find(self, reference: MediumReference) -> str:
        """See `MediaRoot.find`."""
        location = normalize_path(reference.path or "")
        status = self._status(location)
        if status is not None and stat.S_ISREG(status.st_mode):
            return location
        if status is not None and not reference.by_stem:
            raise unreadable(location, "no plain file")
        return self._find_by_stem(location, reference)

    def state(self, location: str) -> FileState:
        """See `MediaRoot.state`."""
        status = self._status(location)
        if status is None:
            raise SampleError(RejectCode.MISSING_FILE, f"{location!r} is not there")
        return FileState(status.st_size, status.st_mtime_ns)

    def read(self, location: str, kind: MediumKind) -> bytes:
        """See `MediaRoot.read`."""
        try:
            descriptor = self._open(location)
            try:
                return _read_whole(location, descriptor, kind)
            finally:
                os.close(descriptor)
        except _GONE as error:
            raise SampleError(RejectCode.MISSING_FILE, f"{location!r} is not there") from error
        except OSError as error:
            raise unreadable(location, error.strerror) from error

    def fetch(self, asked: AskedMedia, known: Mapping[str, KnownFile]) -> Iterator[Fetched | SampleError]:
        """See `MediaRoot.fetch`: one opening for a short plain file in a folder that was followed before."""
        open_file, stat_file, read_file, close_file = os.open, os.fstat, os.read, os.close
        follow, is_plain, find_known = self._followed.get, PLAIN_PATH.fullmatch, known.get
        for path in asked.paths:
            fetched = None
            folder, _, name = path.rpartition("/")
            real = follow(folder)
            if real is not None and is_plain(path):
                try:
                    descriptor = open_file(f"{real}/{name}", _READ_ONLY)
                    try:
                        status = stat_file(descriptor)
                        num_bytes, mtime_ns = status.st_size, status.st_mtime_ns
                        if num_bytes <= SHORT_BYTES and stat.S_ISREG(status.st_mode):
                            one = find_known(path)
                            if one is not None and one.holds_for(FileState(num_bytes, mtime_ns)):
                                fetched = Fetched(path, None, num_bytes, mtime_ns)
                            elif len(data := read_file(descriptor, num_bytes + 1)) == num_bytes:
                                fetched = Fetched(path, data, num_bytes, mtime_ns)
                    finally:
                        close_file(descriptor)
                except OSError:
                    fetched = None
            yield fetched or fetch_one(self, MediumReference(asked.kind, path, asked.by_stem), known)

    def _open(self, location: str) -> int:
        folder, name = split_path(location)
        try:
            return os.open(f"{self._follow_folder(folder)}/{name}", _READ_ONLY)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            return os.open(self._follow(location), _READ_ONLY)

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


def _read_whole(location: str, descriptor: int, kind: MediumKind) -> bytes:
    status = os.fstat(descriptor)
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
