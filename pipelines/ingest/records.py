"""Records of one source: its annotation files in sorted order, read, selected, parsed, all accounted for."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from operators.annotations import PARSERS
from pipelines.ingest.annotations import AnnotationFile, AnnotationFiles, list_annotations
from pipelines.ingest.group import ParsedRecord
from pipelines.ingest.json_rows import Row
from pipelines.ingest.rows import read_rows
from pipelines.ingest.take import choose_rows
from schemas.errors import ConfigError, SampleError
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


def read_source(config: SourceConfig, here: Path) -> SourceRecords:
    """Read and parse the annotations of a source.

    Raises:
        ConfigError: when a file is not there, or records name media and the recipe names no media root.
        CorruptError: when a file is broken between rows.
    """
    annotations = list_annotations(config, here)
    taken = choose_rows(config.take, lambda: (row.raw for _, row in _read_files(annotations)))
    source = SourceRecords(config)
    for index, (file, row) in enumerate(_read_files(annotations)):
        source.num_read += 1
        if index in taken:
            source.num_taken += 1
            _parse(source, file, row)
    return source


def _read_files(annotations: AnnotationFiles) -> Iterator[tuple[AnnotationFile, Row]]:
    for file in annotations.files:
        for row in read_rows(annotations.folder / file.name, file.written):
            yield file, row


def _parse(source: SourceRecords, file: AnnotationFile, row: Row) -> None:
    config, locator = source.config, Locator(file.name, row.number)
    try:
        record = _parse_row(config, locator, row)
    except SampleError as error:
        source.rejects.append(Reject(config.name, locator, error.code, error.message, row.raw))
        return
    if record.media and config.media_root is None and config.format != "onevision":
        place = f"{file.written}:{row.number}"
        raise ConfigError(f"source {config.name}: {place} names a medium; give the source a media_root")
    source.parsed.append(ParsedRecord(record, row.raw))


def _parse_row(config: SourceConfig, locator: Locator, row: Row) -> Record:
    if row.problem is not None:
        raise SampleError(row.code, row.problem)
    return PARSERS[config.format](row.value, config.name, locator)
