"""Which annotation files a source names, and how much of each is taken.

Most sources name files and say `take` once for all of them. LLaVA-Mini's yaml lists name files of their
own, and say for each how much of it is taken; there every entry is a selection by itself. Paths in a list
start from the current folder, as the published code has it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from infra.files import open_files
from pipelines.ingest.annotations import AnnotationFile, list_annotations
from schemas.annotation_list import ListedAnnotations, parse_yaml_list
from schemas.errors import ConfigError
from schemas.recipe import SourceConfig


@dataclass(frozen=True, slots=True)
class Selection:
    """Files over whose rows one `take` is decided."""

    folder: str
    """That all annotation files of the source share."""
    files: tuple[AnnotationFile, ...]
    take: str


def list_selections(config: SourceConfig, here: Path) -> list[Selection]:
    """The selections of a source.

    Raises:
        ConfigError: for files that are not there, and for lists that cannot be read or name a file twice.
    """
    found = list_annotations(config, here)
    folder = str(found.folder)
    if config.format != "llava_yaml":
        return [Selection(folder, found.files, config.take)]
    entries = [entry for file in found.files for entry in _read_list(folder, file)]
    paths = [entry.path for entry in entries]
    shared = list_annotations(config.model_copy(update={"annotations": paths}), here)
    by_place = {f"{shared.folder}/{file.name}": file for file in shared.files}
    selections: list[Selection] = []
    for entry in entries:
        own = list_annotations(config.model_copy(update={"annotations": entry.path}), here)
        files = tuple(_take_out(by_place, f"{own.folder}/{file.name}", config.name) for file in own.files)
        selections.append(Selection(str(shared.folder), files, entry.take))
    return selections


def _read_list(folder: str, file: AnnotationFile) -> Iterator[ListedAnnotations]:
    with open_files(folder).open(file.name) as opened:
        data = opened.readall() or b""
    try:
        yield from parse_yaml_list(data.decode(), file.written)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file.written} is no UTF-8 text: {error}") from error


def _take_out(files: dict[str, AnnotationFile], place: str, source: str) -> AnnotationFile:
    if place not in files:
        raise ConfigError(f"source {source}: {place} is listed twice; name a file once")
    return files.pop(place)
