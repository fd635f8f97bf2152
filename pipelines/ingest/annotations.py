"""The annotation files of a source, under names that do not tell where the data lie.

Tables name a file as seen from the deepest folder that all annotation files of its source share; a single
file is named by its base name. So the same data in another folder, or under another spelling of its path,
give the same bytes. The recipe leads back to the files.

Paths are compared as text: `..` is taken out of it, two spellings of one path are one file, and a link
keeps its own name.
"""

import glob
import os
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import ConfigError
from schemas.recipe import SourceConfig


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

    folder: Path
    """The deepest one that they share."""
    files: tuple[AnnotationFile, ...]


def list_annotations(config: SourceConfig, here: Path) -> AnnotationFiles:
    """The files that the annotations of a source name; relative paths start from `here`.

    Raises:
        ConfigError: for a path or pattern that no file answers to.
    """
    patterns = [config.annotations] if isinstance(config.annotations, str) else config.annotations
    written: dict[Path, str] = {}
    for pattern in patterns:
        for path in _find_files(config.name, pattern, here):
            written.setdefault(Path(os.path.normpath(here / path)), path)
    folder = Path(os.path.commonpath([path.parent for path in written]))
    files = (AnnotationFile(path.relative_to(folder).as_posix(), name) for path, name in written.items())
    return AnnotationFiles(folder, tuple(sorted(files)))


def _find_files(source: str, pattern: str, here: Path) -> list[str]:
    if "://" in pattern:
        raise ConfigError(f"source {source}: {pattern}: annotations have to be local files")
    path = os.path.normpath(pattern)
    found = [path] if (here / path).is_file() else glob.glob(path, root_dir=here, recursive=True)
    files = sorted(name for name in found if (here / name).is_file())
    if not files:
        raise ConfigError(f"source {source}: no annotation file {pattern}; paths start from {here}")
    return files
