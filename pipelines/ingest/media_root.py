r"""Paths of records to files below the media root, and to nothing else.

A path comes from a file that strangers wrote. It is checked as text first (no absolute path, no `..`, no
control character, no backslash), then followed: whatever symbolic links it passes, the real file has to
lie below the real root, and has to be a plain file; pipes, devices and folders are never opened. When the
file is opened it is followed once more, and the last component may not be a link by then.

A path that is not there is tried by its stem, since published sets were renamed (OCR-VQA's GIFs, `.pkl`
features in place of clips): one file of the folder with the same stem and an extension of the wanted kind
is it, two are ambiguous. Ingest counts the records that it happens to. It costs one listing per folder,
kept as long as the worker lives.
"""

import os
import re
import stat
from pathlib import Path, PurePosixPath
from typing import Final

from schemas.errors import RejectCode, SampleError
from schemas.record import MediumKind, MediumReference

MAX_FILE_BYTES: Final = 2 << 30
"""A medium is read whole; a longer one is refused."""

_UNSAFE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\\]|^[A-Za-z]:/")
_EXTENSIONS: Final = {
    MediumKind.IMAGE: frozenset({".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff"}),
    MediumKind.VIDEO: frozenset(
        {".mp4", ".m4v", ".mkv", ".webm", ".mov", ".avi", ".ts", ".mpg", ".mpeg", ".flv"}
    ),
}
_TOO_LARGE: Final = {
    MediumKind.IMAGE: RejectCode.IMAGE_TOO_LARGE,
    MediumKind.VIDEO: RejectCode.VIDEO_TOO_LARGE,
}


def normalize_path(path: str) -> str:
    """A path of a record, relative and without `.` and doubled slashes.

    Raises:
        SampleError: UNSAFE_PATH when it could mean anything outside the media root.
    """
    pure = PurePosixPath(path)
    if _UNSAFE.search(pure.as_posix()) or pure.is_absolute() or ".." in pure.parts or not pure.parts:
        raise SampleError(RejectCode.UNSAFE_PATH, f"{path!r} is no path below the media root")
    return pure.as_posix()


class MediaRoot:
    """The folder that the media of a source lie in."""

    def __init__(self, root: Path) -> None:
        self.folder = root
        self._root = os.path.realpath(root)
        self._listings: dict[str, dict[str, list[str]]] = {}

    def find(self, reference: MediumReference) -> str:
        """Where the medium lies, relative to the root.

        Raises:
            SampleError: UNSAFE_PATH, MISSING_FILE, AMBIGUOUS_FILE or UNREADABLE_FILE (not a plain file).
        """
        location = normalize_path(reference.path or "")
        mode = self._mode(location)
        if mode is not None and stat.S_ISREG(mode):
            return location
        if mode is not None and not reference.by_stem:
            raise SampleError(RejectCode.UNREADABLE_FILE, f"{location!r} is no plain file")
        return self._find_by_stem(location, reference)

    def read(self, location: str, kind: MediumKind) -> bytes:
        """All bytes of a file below the root.

        Raises:
            SampleError: as `find`, and IMAGE_TOO_LARGE or VIDEO_TOO_LARGE.
        """
        try:
            descriptor = os.open(
                self._follow(location), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            )
            with open(descriptor, "rb") as file:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    raise SampleError(RejectCode.UNREADABLE_FILE, f"{location!r} is no plain file")
                if status.st_size > MAX_FILE_BYTES:
                    raise SampleError(_TOO_LARGE[kind], f"{location!r} has {status.st_size} bytes")
                return file.read()
        except FileNotFoundError as error:
            raise SampleError(RejectCode.MISSING_FILE, f"{location!r} is not there") from error
        except OSError as error:
            raise SampleError(RejectCode.UNREADABLE_FILE, f"{location!r}: {error.strerror}") from error

    def _find_by_stem(self, location: str, reference: MediumReference) -> str:
        path = PurePosixPath(location)
        stem = path.name if reference.by_stem else path.stem
        folder = path.parent.as_posix()
        names = [
            name
            for name in self._list(folder).get(stem, [])
            if PurePosixPath(name).suffix.lower() in _EXTENSIONS[reference.kind]
        ]
        found = [found for found in (_join(folder, name) for name in names) if self._is_plain(found)]
        if len(found) > 1:
            message = f"{location!r} may be any of {', '.join(sorted(names))}"
            raise SampleError(RejectCode.AMBIGUOUS_FILE, message)
        if not found:
            raise SampleError(RejectCode.MISSING_FILE, f"{location!r} is not there, under no extension")
        return found[0]

    def _is_plain(self, location: str) -> bool:
        mode = self._mode(location)
        return mode is not None and stat.S_ISREG(mode)

    def _mode(self, location: str) -> int | None:
        """What lies at a location; None when nothing does."""
        try:
            return os.stat(self._follow(location)).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise SampleError(RejectCode.UNREADABLE_FILE, f"{location!r}: {error.strerror}") from error

    def _follow(self, location: str) -> str:
        """The real path of a location, below the real root."""
        real = os.path.realpath(os.path.join(self._root, location))
        if os.path.commonpath([self._root, real]) != self._root:
            message = f"{location!r} is a link that leaves the media root"
            raise SampleError(RejectCode.UNSAFE_PATH, message)
        return real

    def _list(self, folder: str) -> dict[str, list[str]]:
        """Names in a folder by stem."""
        if folder not in self._listings:
            stems: dict[str, list[str]] = {}
            try:
                for name in os.listdir(self._follow(folder)):
                    stems.setdefault(PurePosixPath(name).stem, []).append(name)
            except OSError:
                stems = {}
            self._listings[folder] = stems
        return self._listings[folder]


def _join(folder: str, name: str) -> str:
    return name if folder == "." else f"{folder}/{name}"
