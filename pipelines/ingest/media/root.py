"""What all kinds of media root have in common: which paths are taken, and what a stem may stand for.

A path comes from a file that strangers wrote. It is checked as text first (no absolute path, no `..`, no
control character, no backslash), here, and then looked up by the root: `media_folder`, `media_bucket`,
`media_archive`. Whatever a root is asked for, nothing outside it is opened.

A path that is not there is tried by its stem, since published sets were renamed (OCR-VQA's GIFs, `.pkl`
features in place of clips): one file of the folder with the same stem and an extension of the wanted kind
is it, two are ambiguous. Ingest counts the records that it happens to.
"""

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Final, Protocol, runtime_checkable

import msgspec

from infra.files import FileState
from pipelines.ingest.asked import AskedMedia
from schemas.errors import RejectCode, SampleError
from schemas.record import MediumKind, MediumReference

MAX_MEDIUM_BYTES: Final = 2 << 30
"""A medium is read whole; a longer one is refused."""

PLAIN_PATH: Final = re.compile(
    r"(?![A-Za-z]:/)(?:(?!\.\.?/)[^/\\\x00-\x1f\x7f-\x9f\ud800-\udfff]+/)*"
    r"(?!\.\.?\Z)[^/\\\x00-\x1f\x7f-\x9f\ud800-\udfff]+"
)
"""Paths that `normalize_path` leaves as they are."""
_UNSAFE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\\\ud800-\udfff]|^[A-Za-z]:/")
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


@runtime_checkable
class KnownFile(Protocol):
    """What is known of a file from an earlier look at it."""

    def holds_for(self, state: FileState) -> bool:
        """Whether the file is still the one that was looked at."""
        ...


class Fetched(msgspec.Struct, frozen=True, gc=False):
    """A medium that was found."""

    location: str
    data: bytes | SampleError | None
    """All bytes, or why they cannot be read; None where what is known of the file still holds."""
    num_bytes: int
    mtime_ns: int
    etag: str = ""

    @property
    def state(self) -> FileState:
        """The state of the file before its bytes were read."""
        return FileState(self.num_bytes, self.mtime_ns, self.etag)


@runtime_checkable
class MediaRoot(Protocol):
    """Where the media of a source are; a location is a path below it."""

    @property
    def url(self) -> str:
        """The root, absolute, as a user would type it."""
        ...

    def find(self, reference: MediumReference) -> str:
        """Where a medium lies.

        Raises:
            SampleError: UNSAFE_PATH, MISSING_FILE, AMBIGUOUS_FILE, or UNREADABLE_FILE for what is no plain
                file.
        """
        ...

    def state(self, location: str) -> FileState:
        """What tells whether the bytes at a location are still the same.

        Raises:
            SampleError: as `find`.
        """
        ...

    def read(self, location: str, kind: MediumKind) -> bytes:
        """All bytes of a medium.

        Raises:
            SampleError: as `find`, and IMAGE_TOO_LARGE or VIDEO_TOO_LARGE.
        """
        ...

    def fetch(self, asked: AskedMedia, known: Mapping[str, KnownFile]) -> Iterator[Fetched | SampleError]:
        """What `find`, `state` and `read` say of media, one after the other, or why one is not found.

        Args:
            asked: the media.
            known: by location, what is known already and not read again; it may grow meanwhile.
        """
        ...


def fetch_by_steps(
    root: MediaRoot, asked: AskedMedia, known: Mapping[str, KnownFile]
) -> Iterator[Fetched | SampleError]:
    """`MediaRoot.fetch`, one step after the other."""
    return (fetch_one(root, reference, known) for reference in asked.references())


def fetch_one(
    root: MediaRoot, reference: MediumReference, known: Mapping[str, KnownFile]
) -> Fetched | SampleError:
    """`MediaRoot.fetch` for one medium, one step after the other."""
    try:
        location = root.find(reference)
        state = root.state(location)
    except SampleError as error:
        return error
    one = known.get(location)
    if one is not None and one.holds_for(state):
        return Fetched(location, None, *state)
    try:
        return Fetched(location, root.read(location, reference.kind), *state)
    except SampleError as error:
        return Fetched(location, error, *state)


def normalize_path(path: str) -> str:
    """A path of a record, relative and without `.` and doubled slashes.

    Raises:
        SampleError: UNSAFE_PATH when it could mean anything outside the media root.
    """
    if PLAIN_PATH.fullmatch(path):
        return path
    pure = PurePosixPath(path)
    if _UNSAFE.search(pure.as_posix()) or pure.is_absolute() or ".." in pure.parts or not pure.parts:
        raise SampleError(RejectCode.UNSAFE_PATH, f"{path!r} is no path below the media root")
    return pure.as_posix()


def split_path(location: str) -> tuple[str, str]:
    """Folder (empty for the root itself) and name of a normalized path."""
    folder, _, name = location.rpartition("/")
    return folder, name


def join_path(folder: str, name: str) -> str:
    """The location of a name in a folder."""
    return f"{folder}/{name}" if folder else name


def wanted_stem(name: str, reference: MediumReference) -> str:
    """What the name of a file has to be but for its extension."""
    return name if reference.by_stem else posixpath.splitext(name)[0]


def has_extension_of(name: str, kind: MediumKind) -> bool:
    """Whether a name could be that of a medium of a kind."""
    return posixpath.splitext(name)[1].lower() in _EXTENSIONS[kind]


def has_medium_extension(name: str) -> bool:
    """Whether a name could be that of any medium."""
    return any(has_extension_of(name, kind) for kind in MediumKind)


def choose_one(location: str, names: Iterable[str]) -> str:
    """The only name that a path stands for.

    Raises:
        SampleError: MISSING_FILE where there is none, AMBIGUOUS_FILE where there are several.
    """
    found = sorted(names)
    if not found:
        raise SampleError(RejectCode.MISSING_FILE, f"{location!r} is not there, under no extension")
    if len(found) > 1:
        raise SampleError(RejectCode.AMBIGUOUS_FILE, f"{location!r} may be any of {', '.join(found)}")
    return found[0]


def check_medium_size(location: str, num_bytes: int, kind: MediumKind) -> None:
    """Refuse what is too large to be read whole.

    Raises:
        SampleError: IMAGE_TOO_LARGE or VIDEO_TOO_LARGE.
    """
    if num_bytes > MAX_MEDIUM_BYTES:
        raise too_large(location, num_bytes, kind)


def too_large(location: str, num_bytes: int, kind: MediumKind, why: str = "") -> SampleError:
    """The reject of a medium that is too large."""
    limit = why or f"the limit is {MAX_MEDIUM_BYTES}"
    return SampleError(_TOO_LARGE[kind], f"{location!r} has {num_bytes} bytes; {limit}")


def unreadable(location: str, why: str | None) -> SampleError:
    """The reject of a file that is there and cannot be read."""
    return SampleError(RejectCode.UNREADABLE_FILE, f"{location!r}: {why}")
