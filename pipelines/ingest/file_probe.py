"""Media that lie in files, each found, read and described once, and not again while it is the same.

A file is read whole once, for its sha256 and its header together. Small files are fetched and described a
handful at a time, step by step: who asks the system for something between any two steps finds little in the
processor's cache, and takes up to twice as long for each. A handful is 16 media, or fewer that are a megabyte
together.
"""

import hashlib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import PurePosixPath
from typing import Final

import msgspec

from pipelines.ingest.asked import AskedMedia, request_hash
from pipelines.ingest.findings import Finding, ProbeCounts, RejectedMedium
from pipelines.ingest.media.facts import describe_bytes
from pipelines.ingest.media.reader import MediaReader
from pipelines.ingest.media.root import Fetched
from pipelines.ingest.probe_cache import CachedFinding
from schemas.errors import SampleError
from schemas.record import MediumKind

HANDFUL: Final = 16
HANDFUL_BYTES: Final = 1 << 20

_Fetch = tuple[str, Fetched | SampleError]


class FileProbe:
    """Looks at media, each once."""

    def __init__(self, media: MediaReader, seen: Iterable[CachedFinding]) -> None:
        """`seen` is what is known of files."""
        self._media = media
        self._files: dict[tuple[str, MediumKind], _KnownFiles] = {}
        self._answers: dict[tuple[str, MediumKind, bool], dict[str, Finding]] = {}
        for one in seen:
            self._files_of(one.root, one.kind).remember(one)

    @property
    def counts(self) -> ProbeCounts:
        """What was done so far."""
        return sum((files.counts for files in self._files.values()), start=ProbeCounts())

    def seen(self) -> Iterator[CachedFinding]:
        """All that is known of files by now."""
        return chain.from_iterable(files.known.values() for files in self._files.values())

    def look(self, source: str, asked: AskedMedia) -> list[Finding]:
        """Find, read and describe media of a source; in their order."""
        root = self._media.root(source)
        files = self._files_of(root.url, asked.kind)
        answers = self._answers.setdefault((source, asked.kind, asked.by_stem), {})
        new = [path for path in asked.paths if path not in answers]
        asking = AskedMedia(asked.kind, asked.by_stem, new)
        fetches = zip(new, root.fetch(asking, files.known), strict=True)
        while handful := _take_handful(fetches):
            for (path, fetched), sha256 in zip(handful, _list_digests(handful), strict=True):
                answers[path] = files.answer(path, asked.by_stem, fetched, sha256)
        return [answers[path] for path in asked.paths]

    def _files_of(self, url: str, kind: MediumKind) -> "_KnownFiles":
        return self._files.setdefault((url, kind), _KnownFiles(url, kind))


class _KnownFiles:
    """The files of a root that were looked at as media of one kind."""

    def __init__(self, url: str, kind: MediumKind) -> None:
        self.known: dict[str, CachedFinding] = {}
        """What is known by now, by location."""
        self._known_before: dict[str, CachedFinding] = {}
        self._url = url
        self._kind = kind
        self._num_read = self._num_bytes_read = self._num_unchanged = 0

    @property
    def counts(self) -> ProbeCounts:
        """What was done so far."""
        return ProbeCounts(self._num_read, self._num_bytes_read, self._num_unchanged)

    def remember(self, one: CachedFinding) -> None:
        """Know what an earlier run found."""
        self.known[one.location] = self._known_before[one.location] = one

    def answer(self, path: str, by_stem: bool, fetched: Fetched | SampleError, sha256: str) -> Finding:
        """What a medium is, from what is known if the file is the same; `sha256` is that of what was read."""
        if isinstance(fetched, SampleError):
            return RejectedMedium(fetched.code, fetched.message)
        location, data = fetched.location, fetched.data
        one = self.known.get(location)
        if data is None or (one is not None and one.holds_for(fetched.state)):
            finding = self.known[location].finding
            self._num_unchanged += one is self._known_before.get(location)
        else:
            finding = self._describe(data, sha256, location)
            self.known[location] = CachedFinding(
                request_hash(path),
                self._url,
                location,
                self._kind,
                fetched.num_bytes,
                fetched.mtime_ns,
                fetched.etag,
                finding,
            )
        is_plain = location == path or by_stem or isinstance(finding, RejectedMedium)
        if is_plain or _have_same_name(location, path):
            return finding
        return msgspec.structs.replace(finding, is_by_stem=True)

    def _describe(self, data: bytes | SampleError, sha256: str, location: str) -> Finding:
        """What was read, or why it cannot be used, for the cache to keep."""
        self._num_read += 1
        if isinstance(data, SampleError):
            return RejectedMedium(data.code, data.message)
        self._num_bytes_read += len(data)
        return describe_bytes(data, sha256, self._kind, location)


def _take_handful(fetches: Iterator[_Fetch]) -> list[_Fetch]:
    """The next few media; none when there are no more."""
    handful: list[_Fetch] = []
    num_bytes = 0
    for one in fetches:
        handful.append(one)
        if isinstance(one[1], Fetched):
            num_bytes += one[1].num_bytes
        if len(handful) == HANDFUL or num_bytes > HANDFUL_BYTES:
            break
    return handful


def _list_digests(handful: Iterable[_Fetch]) -> list[str]:
    """The sha256 of each that was read, empty for the others."""
    return [
        hashlib.sha256(one.data).hexdigest()
        if isinstance(one, Fetched) and isinstance(one.data, bytes)
        else ""
        for _, one in handful
    ]


def _have_same_name(location: str, path: str) -> bool:
    """Whether a file has the name that a record gives it, whatever the spelling of the path."""
    return location.rpartition("/")[2] == PurePosixPath(path).name
