"""Media below an S3 prefix.

A folder is listed when the first of its media is asked for: one request for a thousand objects answers where
each lies and what state it is in, so an unchanged object costs no request of its own. Listings are kept, up
to `MAX_LISTED` names; a single folder of millions of objects is the wrong shape for this. There are no links
on S3, and an object is all that a key can name.
"""

import posixpath
from collections.abc import Iterator, Mapping
from typing import Final

from infra.files import FileState, open_files
from pipelines.ingest.asked import AskedMedia
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
from schemas.errors import NotFoundError, RejectCode, SampleError
from schemas.record import MediumKind, MediumReference

MAX_LISTED: Final = 500_000
"""Names of objects in listings that are kept."""


class MediaBucket:
    """A prefix of a bucket that holds the media of a source."""

    def __init__(self, url: str) -> None:
        self._files = open_files(url)
        self._listings: dict[str, dict[str, FileState]] = {}
        self._stems: dict[str, dict[str, list[str]]] = {}

    @property
    def url(self) -> str:
        """See `MediaRoot.url`."""
        return self._files.url

    def find(self, reference: MediumReference) -> str:
        """See `MediaRoot.find`."""
        location = normalize_path(reference.path or "")
        folder, name = split_path(location)
        if name in self._list(folder):
            return location
        stem = wanted_stem(name, reference)
        same_stem = self._names_by_stem(folder).get(stem, ())
        return join_path(
            folder,
            choose_one(location, (name for name in same_stem if has_extension_of(name, reference.kind))),
        )

    def state(self, location: str) -> FileState:
        """See `MediaRoot.state`."""
        folder, name = split_path(location)
        state = self._list(folder).get(name)
        if state is None:
            raise SampleError(RejectCode.MISSING_FILE, f"{location!r} is not there")
        return state

    def read(self, location: str, kind: MediumKind) -> bytes:
        """See `MediaRoot.read`."""
        expected = self.state(location)
        check_medium_size(location, expected.num_bytes, kind)
        try:
            with self._files.open(location) as file:
                data = file.read()
        except NotFoundError as error:
            raise SampleError(RejectCode.MISSING_FILE, f"{location!r} is not there any more") from error
        if data is None or len(data) != expected.num_bytes:
            raise unreadable(location, "its size changes while it is read")
        return data

    def fetch(self, asked: AskedMedia, known: Mapping[str, KnownFile]) -> Iterator[Fetched | SampleError]:
        """See `MediaRoot.fetch`."""
        return fetch_by_steps(self, asked, known)

    def _list(self, folder: str) -> dict[str, FileState]:
        if folder not in self._listings:
            listing = self._files.list_folder(folder)
            if sum(map(len, self._listings.values())) + len(listing) > MAX_LISTED:
                self._listings.clear()
                self._stems.clear()
            self._listings[folder] = listing
        return self._listings[folder]

    def _names_by_stem(self, folder: str) -> dict[str, list[str]]:
        if folder not in self._stems:
            stems: dict[str, list[str]] = {}
            for name in self._list(folder):
                stems.setdefault(posixpath.splitext(name)[0], []).append(name)
            self._stems[folder] = stems
        return self._stems[folder]
