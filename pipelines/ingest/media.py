"""Media of all sources, wherever their bytes are: files below a media root, or rows of a parquet file."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipelines.ingest.annotations import list_annotations
from pipelines.ingest.media_root import MediaRoot
from pipelines.ingest.parquet_rows import EmbeddedMedia
from schemas.errors import ConfigError
from schemas.recipe import SourceConfig
from schemas.record import MediumKind, MediumReference


@dataclass(frozen=True, slots=True)
class MediaSource:
    """Where the media of a source are; absolute, so that any worker of the machine finds them."""

    name: str
    folder: str
    """The media root; for embedded media, the folder that all annotation files share."""
    is_embedded: bool


def locate_media(configs: Iterable[SourceConfig], here: Path) -> tuple[MediaSource, ...]:
    """The media sources of a recipe; one without a media root and without embedded media is left out.

    Raises:
        ConfigError: when a media root is no folder, or embedded media are in no file.
    """
    sources: list[MediaSource] = []
    for config in configs:
        if config.format == "onevision":
            sources.append(MediaSource(config.name, str(list_annotations(config, here).folder), True))
        elif config.media_root is not None:
            folder = here / config.media_root
            if not folder.is_dir():
                raise ConfigError(f"source {config.name}: media_root {config.media_root} is no folder")
            sources.append(MediaSource(config.name, str(folder), False))
    return tuple(sources)


class MediaReader:
    """Opens media by (source, location); lives in a worker and keeps its folder listings."""

    def __init__(self, sources: Iterable[MediaSource]) -> None:
        self._media = {
            source.name: EmbeddedMedia(Path(source.folder))
            if source.is_embedded
            else MediaRoot(Path(source.folder))
            for source in sources
        }

    def find(self, source: str, reference: MediumReference) -> str:
        """The location of a medium as a record of the source names it.

        Raises:
            SampleError: as `MediaRoot.find`.
        """
        return self._folder(source).find(reference)

    def read(self, source: str, location: str, kind: MediumKind) -> bytes:
        """All bytes of a medium.

        Raises:
            SampleError: as `MediaRoot.read` and `EmbeddedMedia.read`.
        """
        return self._folder(source).read(location, kind)

    def describe(self, source: str, location: str) -> str:
        """The whole path of a location, for messages."""
        return str(self._folder(source).folder / location)

    def _folder(self, source: str) -> MediaRoot | EmbeddedMedia:
        if source not in self._media:
            raise ConfigError(f"source {source}: its records name media; give the source a media_root")
        return self._media[source]
