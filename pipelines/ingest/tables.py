"""The tables of a corpus: examples, media, quarantine, as parquet files whose bytes depend on their rows
alone.

Rows are sorted and writer settings are fixed, so any engine and any number of workers give the same
files. Tables by item are cut by the leading bits of the item key, as the shard plan is, into as many files as
keep one near `ROWS_PER_FILE`; a changed text rewrites one small file. A file is named by its bits.

The table of media has a row for each medium of each item: what a shard stores. A medium that is an item by
itself and part of another stands there twice, and is stored twice.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
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

EXAMPLES: Final = TableSchema(
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
MEDIA: Final = TableSchema(
    ("item_key", "string"),
    ("position", "int32"),
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
QUARANTINE: Final = TableSchema(
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


@dataclass(frozen=True, slots=True, kw_only=True)
class MediumRow:
    """One medium of an item: what it is, how many examples are about it, and where its bytes were found."""

    item_key: str
    position: int
    """Among the media of the item, from 0."""
    facts: MediumFacts
    times_used: int
    """Examples of the item."""
    source: str
    location: str
    """Path below the media root of the source, or `FILE#ROW`, the file named as in a locator; of several
    places, the smallest pair."""


def put_rejects(storage: Storage, name: str, rejects: Sequence[Reject]) -> ObjectEntry:
    """Store rejects of one source, in the order of their places."""
    rows = [
        (reject.source, reject.locator.file, reject.locator.row, reject.code, reject.message, reject.raw)
        for reject in rejects
    ]
    return put_object(storage, "quarantine", name, "parquet", QUARANTINE.write(rows), len(rows))


def read_examples(storage: Storage, entry: ObjectEntry) -> Iterator[ExampleRow]:
    """Rows of one file of the table of examples, in order.

    Raises:
        CorruptError: when the file is not as it was written.
    """
    for values in _read(storage, entry, EXAMPLES):
        values["modality"] = Modality(values["modality"])
        yield ExampleRow(**values)


def read_media(storage: Storage, entry: ObjectEntry) -> Iterator[MediumRow]:
    """Rows of one file of the table of media, in order.

    Raises:
        CorruptError: when the file is not as it was written.
    """
    names = MediumFacts._fields
    for values in _read(storage, entry, MEDIA):
        values["kind"] = MediumKind(values["kind"])
        yield MediumRow(facts=MediumFacts(**{name: values.pop(name) for name in names}), **values)


def read_quarantine(storage: Storage, entry: ObjectEntry) -> Iterator[Reject]:
    """Rows of one quarantine file, in order.

    Raises:
        CorruptError: when the file is not as it was written.
    """
    for values in _read(storage, entry, QUARANTINE):
        locator = Locator(values["record_file"], values["record_row"])
        yield Reject(values["source"], locator, values["code"], values["message"], values["raw"])


def choose_item_bits(num_rows: int) -> int:
    """How many leading bits of a key name the file that its rows are in."""
    bits = 0
    while num_rows > ROWS_PER_FILE << bits:
        bits += 1
    return bits


def name_bucket(bucket: int, bits: int) -> str:
    """The name of the file of a bucket: its bits."""
    return f"{bucket:0{bits}b}" if bits else WHOLE_TABLE


def prefix_of(entry: ObjectEntry) -> str:
    """The bits that all keys in a file begin with."""
    name = entry.path.rpartition("/")[2].partition("-")[0]
    return "" if name == WHOLE_TABLE else name


def _read(storage: Storage, entry: ObjectEntry, schema: TableSchema) -> Iterator[dict[str, Any]]:
    data = read_object(storage, entry)
    try:
        with closing(ParquetFile(io.BytesIO(data))) as file:
            if file.leaves != schema.names:
                raise CorruptError(f"{storage.url}/{entry.path} has other columns than {schema.names}")
            yield from file.rows()
    except ARROW_ERRORS as error:
        raise CorruptError(f"{storage.url}/{entry.path} is no parquet file: {error}") from error
