"""Records of one source: its annotation files in sorted order, read, selected, parsed, all accounted for."""

import glob
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from operators.annotations import PARSERS
from pipelines.ingest.group import ParsedRecord
from pipelines.ingest.json_rows import Row
from pipelines.ingest.rows import read_rows
from pipelines.ingest.take import choose_rows
from schemas.errors import ConfigError, RejectCode, SampleError
from schemas.recipe import SourceConfig
from schemas.record import Locator, Record, Reject


@dataclass(slots=True)
class SourceRecords:
    """What was read of a source: read = parsed + rejected + not taken."""

    config: SourceConfig
    num_read: int = 0
    num_taken: int = 0
    parsed: list[ParsedRecord] = field(default_factory=list[ParsedRecord])
    rejects: list[Reject] = field(default_factory=list[Reject])


def list_annotations(config: SourceConfig, here: Path) -> list[str]:
    """Names of the annotation files of a source, sorted; relative names start from `here`.

    Raises:
        ConfigError: for a name or pattern that no file answers to.
    """
    patterns = [config.annotations] if isinstance(config.annotations, str) else config.annotations
    names: set[str] = set()
    for pattern in patterns:
        if "://" in pattern:
            raise ConfigError(f"source {config.name}: {pattern}: annotations have to be local files")
        found = [pattern] if (here / pattern).is_file() else glob.glob(pattern, root_dir=here, recursive=True)
        files = [name for name in found if (here / name).is_file()]
        if not files:
            raise ConfigError(f"source {config.name}: no annotation file {pattern}; paths start from {here}")
        names.update(files)
    return sorted(names)


def read_source(config: SourceConfig, here: Path) -> SourceRecords:
    """Read and parse the annotations of a source.

    Raises:
        ConfigError: when a file is not there, or records name media and the recipe names no media root.
        CorruptError: when a file is broken between rows.
    """
    files = list_annotations(config, here)
    taken = choose_rows(config.take, lambda: (row.raw for _, row in _read_files(files, here)))
    source = SourceRecords(config)
    for index, (name, row) in enumerate(_read_files(files, here)):
        source.num_read += 1
        if index in taken:
            source.num_taken += 1
            _parse(source, Locator(name, row.number), row)
    return source


def _read_files(names: list[str], here: Path) -> Iterator[tuple[str, Row]]:
    for name in names:
        for row in read_rows(here / name, name):
            yield name, row


def _parse(source: SourceRecords, locator: Locator, row: Row) -> None:
    config = source.config
    try:
        record = _parse_row(config, locator, row)
    except SampleError as error:
        source.rejects.append(Reject(config.name, locator, error.code, error.message, row.raw))
        return
    if record.media and config.media_root is None and config.format != "onevision":
        raise ConfigError(f"source {config.name}: {locator} names a medium; give the source a media_root")
    source.parsed.append(ParsedRecord(record, row.raw))


def _parse_row(config: SourceConfig, locator: Locator, row: Row) -> Record:
    if row.problem is not None:
        raise SampleError(RejectCode.BAD_JSON, row.problem)
    return PARSERS[config.format](row.value, config.name, locator)
