"""Media of all sources, wherever they are: a folder, an archive, an S3 prefix, rows of parquet files."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from infra.files import FileState, open_files
from operators.annotations import LAYOUTS
from pipelines.ingest.annotations import list_annotations
from pipelines.ingest.asked import AskedMedia
from pipelines.ingest.media.archive import MediaArchive
from pipelines.ingest.media.bucket import MediaBucket
from pipelines.ingest.media.folder import MediaFolder
from pipelines.ingest.media.root import Fetched, KnownFile, MediaRoot, fetch_by_steps
from schemas.errors import ConfigError, NotFoundError, SampleError
from schemas.recipe import SourceConfig
from schemas.record import MediumKind, MediumReference

RootKind = Literal["folder", "archive", "bucket", "embedded"]


@dataclass(frozen=True, slots=True)
class MediaSource:
    """Where the media of a source are; absolute, so that any worker of the machine finds them."""

    name: str
    kind: RootKind
    url: str
    """The media root; for embedded media, the folder that all annotation files share."""
    also_under: tuple[str, ...] = ()
    """Folders besides the root that links may lead into."""

    @property
    def is_embedded(self) -> bool:
        """Whether the media stand in the annotation files."""
        return self.kind == "embedded"


def locate_media(configs: Iterable[SourceConfig], here: Path) -> tuple[MediaSource, ...]:
    """The media sources of a recipe; one without a media root and without embedded media is left out.

    An archive is opened, and listed where this machine has not done so before.

    Raises:
        ConfigError: when a media root is of no kind that can be read, or embedded media are in no file.
        CorruptError: when an archive is damaged.
    """
    sources: list[MediaSource] = []
    for config in configs:
        if LAYOUTS[config.format].is_embedded:
            folder = str(list_annotations(config, here).folder)
            sources.append(MediaSource(config.name, "embedded", folder))
        elif config.media_root is not None:
            sources.append(_locate(config, config.media_root, here))
    return tuple(sources)


class MediaReader:
    """Opens media by (source, location); lives in a worker and keeps what it has learnt of folders."""

    def __init__(self, sources: Iterable[MediaSource]) -> None:
        self._sources = {source.name: source for source in sources}
        self._roots: dict[str, MediaRoot] = {}

    def root(self, source: str) -> MediaRoot:
        """Where the media of a source are.

        Raises:
            ConfigError: for a source without media.
        """
        return self._roots.get(source) or self._open(source)

    def find(self, source: str, reference: MediumReference) -> str:
        """The location of a medium as a record of the source names it.

        Raises:
            SampleError: as `MediaRoot.find`.
        """
        return self.root(source).find(reference)

    def state(self, source: str, location: str) -> FileState:
        """What tells whether a medium is still the same; take it before reading.

        Raises:
            SampleError: as `MediaRoot.state`.
        """
        return self.root(source).state(location)

    def read(self, source: str, location: str, kind: MediumKind) -> bytes:
        """All bytes of a medium.

        Raises:
            SampleError: as `MediaRoot.read`.
        """
        return self.root(source).read(location, kind)

    def describe(self, source: str, location: str) -> str:
        """The whole path of a location, for messages."""
        return f"{self.root_of(source)}/{location}"

    def root_of(self, source: str) -> str:
        """The media root, absolute: with a location, it names a medium for good."""
        return self._source(source).url

    def _source(self, name: str) -> MediaSource:
        if name not in self._sources:
            raise ConfigError(f"source {name}: its records name media; give the source a media_root")
        return self._sources[name]

    def _open(self, source: str) -> MediaRoot:
        root = self._roots[source] = _open_root(self._source(source))
        return root


class _EmbeddedRoot:
    """Media in the rows of parquet files, by `FILE#ROW` or `FILE#ROW/PLACE`."""

    def __init__(self, url: str) -> None:
        from pipelines.ingest.rows.parquet_rows import EmbeddedMedia  # who reads files loads no pyarrow

        self.url = url
        self._media = EmbeddedMedia(url)

    def find(self, reference: MediumReference) -> str:
        """See `MediaRoot.find`: the location is the reference, there is nothing to resolve."""
        return str(reference.path)

    def state(self, location: str) -> FileState:
        """See `MediaRoot.state`: that of the whole file."""
        return open_files(self.url).state(location.rpartition("#")[0])

    def read(self, location: str, kind: MediumKind) -> bytes:
        """See `MediaRoot.read`."""
        return self._media.read(location, kind)

    def fetch(self, asked: AskedMedia, known: Mapping[str, KnownFile]) -> Iterator[Fetched | SampleError]:
        """See `MediaRoot.fetch`."""
        return fetch_by_steps(self, asked, known)


def _open_root(source: MediaSource) -> MediaRoot:
    match source.kind:
        case "folder":
            return MediaFolder(source.url, source.also_under)
        case "archive":
            return MediaArchive(source.url)
        case "bucket":
            return MediaBucket(source.url)
        case "embedded":
            return _EmbeddedRoot(source.url)


def _locate(config: SourceConfig, media_root: str, here: Path) -> MediaSource:
    where = f"source {config.name}: media_root {media_root}"
    if "://" in media_root and not media_root.startswith("file://"):
        _check_bucket(media_root, where)
        found = MediaSource(config.name, "bucket", open_files(media_root).url)
    else:
        path = os.path.abspath(here / media_root.removeprefix("file://"))
        if os.path.isfile(path):
            _check_archive(path, where)
            found = MediaSource(config.name, "archive", path)
        elif os.path.isdir(path):
            return MediaSource(config.name, "folder", path, _check_also_under(config, here))
        else:
            raise ConfigError(f"{where} is no folder, no tar and no zip; paths start from {here}")
    if config.also_under:
        raise ConfigError(f"{where} is no folder, so no links lead out of it; remove also_under")
    return found


def _check_archive(path: str, where: str) -> None:
    try:
        MediaArchive(path).close()
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _check_bucket(url: str, where: str) -> None:
    """Tell a prefix from an object: an archive on S3 would take several requests a member."""
    parent, _, name = url.rstrip("/").rpartition("/")
    if parent in ("s3:/", "s3:"):
        return
    try:
        open_files(parent).state(name)
    except NotFoundError:
        return
    raise ConfigError(
        f"{where} is one object; media are read from a prefix, archives from a local disk: "
        f"copy it (aws s3 cp {url} .) and name the copy"
    )


def _check_also_under(config: SourceConfig, here: Path) -> tuple[str, ...]:
    folders = tuple(os.path.abspath(here / folder) for folder in config.also_under)
    for written, folder in zip(config.also_under, folders, strict=True):
        if not os.path.isdir(folder):
            raise ConfigError(f"source {config.name}: also_under {written} is no folder")
    return folders
