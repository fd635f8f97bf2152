"""The tables of a corpus: examples, media, quarantine, as parquet files whose bytes depend on their rows
alone.

Rows are sorted and writer settings are fixed, so any engine and any number of workers give the same
files. A large table is cut by the leading hex digits of its keys, as many as keep a file near
`ROWS_PER_FILE`, so that a changed text rewrites one small file.
"""

import dataclasses
import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

from infra.storage import Storage
from pipelines.commit import put_object, read_object
from pipelines.ingest.arrow import ARROW_ERRORS, ParquetFile, TableSchema
from schemas.corpus import ObjectEntry
from schemas.errors import CorruptError
from schemas.medium import MediumFacts
from schemas.record import Locator, MediumKind, Modality, Reject

ROWS_PER_FILE: Final = 50_000
WHOLE_TABLE: Final = "all"
"""Name of a table that is one file."""

_EXAMPLES: Final = TableSchema(
    ("example_id", "string"),
    ("source", "string"),
    ("record_file", "string"),
    ("record_row", "int64"),
    ("record_id", "string"),
    ("item_key", "string"),
    ("modality", "string"),
    ("num_chars", "int32"),
    ("conversation", "binary"),
)
_MEDIA: Final = TableSchema(
    ("sha256", "string"),
    ("kind", "string"),
    ("extension", "string"),
    ("num_bytes", "int64"),
    ("width_px", "int32"),
    ("height_px", "int32"),
    ("duration_s", "double"),
    ("times_used", "int64"),
    ("source", "string"),
    ("location", "string"),
)
_QUARANTINE: Final = TableSchema(
    ("source", "string"),
    ("record_file", "string"),
    ("record_row", "int64"),
    ("code", "string"),
    ("message", "string"),
    ("raw", "large_binary"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleRow:
    """One conversation of one item."""

    example_id: str
    source: str
    record_file: str
    record_row: int
    record_id: str
    item_key: str
    modality: Modality
    num_chars: int
    conversation: bytes
    """Canonical JSON: [["human", "..."], ["gpt", "..."], ...]."""


@dataclass(frozen=True, slots=True)
class MediumRow:
    """One medium: what it is, how many examples are about it, and where its bytes were found."""

    facts: MediumFacts
    times_used: int
    source: str
    location: str
    """Path below the media root of the source, or `FILE#ROW`, the file named as in a locator; of several
    places, the smallest pair."""

    def merged_with(self, other: "MediumRow") -> "MediumRow":
        """The row of a medium that more examples are about."""
        source, location = min((self.source, self.location), (other.source, other.location))
        return MediumRow(self.facts, self.times_used + other.times_used, source, location)


def write_examples(storage: Storage, examples: Iterable[ExampleRow]) -> list[ObjectEntry]:
    """Store the table of examples, sorted by item and example."""
    rows = sorted(examples, key=lambda row: (row.item_key, row.example_id))
    keyed = [(row.item_key, _example_values(row)) for row in rows]
    return _write_by_key(storage, "examples", _EXAMPLES, keyed)


def write_media(storage: Storage, media: Iterable[MediumRow]) -> list[ObjectEntry]:
    """Store the table of media, sorted by sha256."""
    keyed = sorted(((row.facts.sha256, _medium_values(row)) for row in media), key=itemgetter(0))
    return _write_by_key(storage, "media", _MEDIA, keyed)


def write_quarantine(storage: Storage, rejects: Iterable[Reject]) -> list[ObjectEntry]:
    """Store the rejects, one file per source that has any, sorted by where they stand."""
    rows = sorted(rejects, key=lambda reject: (reject.source, reject.locator))
    return [
        _put(storage, "quarantine", source, _QUARANTINE, [_reject_values(reject) for reject in group])
        for source, group in groupby(rows, key=lambda reject: reject.source)
    ]


def read_examples(storage: Storage, entry: ObjectEntry) -> Iterator[ExampleRow]:
    """Rows of one file of the table of examples, in order.

    Raises:
        CorruptError: when the file is not as it was written.
    """
    for values in _read(storage, entry, _EXAMPLES):
        values["modality"] = Modality(values["modality"])
        yield ExampleRow(**values)


def read_media(storage: Storage, entry: ObjectEntry) -> Iterator[MediumRow]:
    """Rows of one file of the table of media, in order.

    Raises:
        CorruptError: when the file is not as it was written.
    """
    names = [field.name for field in dataclasses.fields(MediumFacts)]
    for values in _read(storage, entry, _MEDIA):
        values["kind"] = MediumKind(values["kind"])
        facts = MediumFacts(**{name: values[name] for name in names})
        yield MediumRow(facts, values["times_used"], values["source"], values["location"])


def read_quarantine(storage: Storage, entry: ObjectEntry) -> Iterator[Reject]:
    """Rows of one quarantine file, in order.

    Raises:
        CorruptError: when the file is not as it was written.
    """
    for values in _read(storage, entry, _QUARANTINE):
        locator = Locator(values["record_file"], values["record_row"])
        yield Reject(values["source"], locator, values["code"], values["message"], values["raw"])


def count_digits(num_rows: int) -> int:
    """How many leading hex digits of a key name the file that its row is in."""
    digits = 0
    while num_rows > ROWS_PER_FILE << (4 * digits):
        digits += 1
    return digits


def _write_by_key(
    storage: Storage, folder: str, schema: TableSchema, keyed: Sequence[tuple[str, tuple[object, ...]]]
) -> list[ObjectEntry]:
    digits = count_digits(len(keyed))
    return [
        _put(storage, folder, name or WHOLE_TABLE, schema, [values for _, values in group])
        for name, group in groupby(keyed, key=lambda pair: pair[0][:digits])
    ]


def _put(
    storage: Storage, folder: str, name: str, schema: TableSchema, rows: list[tuple[object, ...]]
) -> ObjectEntry:
    return put_object(storage, folder, name, "parquet", schema.write(rows), len(rows))


def _read(storage: Storage, entry: ObjectEntry, schema: TableSchema) -> Iterator[dict[str, Any]]:
    data = read_object(storage, entry)
    try:
        with closing(ParquetFile(io.BytesIO(data))) as file:
            if file.leaves != schema.names:
                raise CorruptError(f"{storage.url}/{entry.path} has other columns than {schema.names}")
            yield from file.rows()
    except ARROW_ERRORS as error:
        raise CorruptError(f"{storage.url}/{entry.path} is no parquet file: {error}") from error


def _example_values(row: ExampleRow) -> tuple[object, ...]:
    return tuple(getattr(row, name) for name in _EXAMPLES.names)


def _medium_values(row: MediumRow) -> tuple[object, ...]:
    facts = row.facts
    size = (facts.num_bytes, facts.width_px, facts.height_px, facts.duration_s)
    return (facts.sha256, facts.kind.value, facts.extension, *size, row.times_used, row.source, row.location)


def _reject_values(reject: Reject) -> tuple[object, ...]:
    place = reject.locator
    return (reject.source, place.file, place.row, str(reject.code), reject.message, reject.raw)
