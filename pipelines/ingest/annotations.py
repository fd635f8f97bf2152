"""The annotation files of a source, under names that do not tell where the data lie.

Tables name a file as seen from the deepest folder that all annotation files of its source share; a single
file is named by its base name. So the same data in another folder or bucket, or under another spelling of its
path, give the same bytes. The recipe leads back to the files.

Paths are compared as text: `..` is taken out of it, two spellings of one path are one file, and a link
keeps its own name.
"""

import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from infra.files import open_files
from schemas.errors import ConfigError
from schemas.recipe import SourceConfig

_S3: Final = "s3://"
_LOCAL: Final = "file://"


@dataclass(frozen=True, slots=True, order=True)
class AnnotationFile:
    """One file of a source."""

    name: str
    """Below the shared folder: what tables hold."""
    written: str
    """As the recipe leads to it: what messages say."""


@dataclass(frozen=True, slots=True)
class AnnotationFiles:
    """The annotation files of a source, sorted by name."""

    folder: str
    """Path or URL of the deepest one that they share; `open_files` opens it."""
    files: tuple[AnnotationFile, ...]


def list_annotations(config: SourceConfig, here: Path) -> AnnotationFiles:
    """The files that the annotations of a source name; relative paths start from `here`.

    Raises:
        ConfigError: for a path or pattern that no file answers to, and files that share no bucket.
    """
    patterns = [config.annotations] if isinstance(config.annotations, str) else config.annotations
    written: dict[str, str] = {}
    for pattern in patterns:
        found = _find_on_s3(pattern) if pattern.startswith(_S3) else _find_here(pattern, here)
        places = dict(found)
        if not places:
            start = "" if pattern.startswith(_S3) else f"; paths start from {here}"
            raise ConfigError(f"source {config.name}: no annotation file {pattern}{start}")
        for place, name in places.items():
            written.setdefault(place, name)
    folder = _share_folder(config.name, list(written))
    files = (AnnotationFile(posixpath.relpath(place, folder), name) for place, name in written.items())
    is_local = not folder.startswith("s3:")
    return AnnotationFiles(folder if is_local else folder.replace("s3:/", _S3, 1), tuple(sorted(files)))


def _find_here(pattern: str, here: Path) -> Iterator[tuple[str, str]]:
    """Absolute paths of files, and how the pattern spells them."""
    path = os.path.normpath(pattern.removeprefix(_LOCAL))
    if "://" in pattern.removeprefix(_LOCAL):
        raise ConfigError(f"{pattern}: annotations are local files or s3://BUCKET/KEY")
    for name in open_files(here).glob(path):
        yield os.path.normpath(here / name), name


def _find_on_s3(pattern: str) -> Iterator[tuple[str, str]]:
    """Objects as `s3:/BUCKET/KEY`, and their URLs."""
    bucket, _, key = pattern.removeprefix(_S3).partition("/")
    for name in open_files(_S3 + bucket).glob(key):
        yield f"s3:/{bucket}/{name}", f"{_S3}{bucket}/{name}"


def _share_folder(source: str, places: list[str]) -> str:
    try:
        folder = posixpath.commonpath([posixpath.dirname(place) for place in places])
    except ValueError:
        folder = ""
    if folder in ("", "s3:"):
        raise ConfigError(f"source {source}: its annotations lie in one bucket, or all on this machine")
    return folder
