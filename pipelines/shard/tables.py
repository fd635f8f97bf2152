"""Rows of the tables of examples and media, leaf by leaf and column by column.

Both tables are sorted by item key and cut by its leading bits, so what belongs to a leaf is found in the
files that overlap it. A reader keeps the last file of each table as columns: leaves come in order, so
each file is read about once, and rows become Python values only where a shard is written.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO

import polars as pl

from infra.storage import Storage
from pipelines.commit import read_object
from pipelines.ingest.arrow import TableSchema
from pipelines.ingest.plan import key_range
from pipelines.ingest.tables import EXAMPLES, MEDIA, prefix_of
from schemas.corpus import Manifest, ObjectEntry
from schemas.errors import CorruptError
from schemas.plan import Leaf
from schemas.record import MediumKind, Modality

_KIND_OF = {Modality.IMAGE: MediumKind.IMAGE, Modality.VIDEO: MediumKind.VIDEO}


@dataclass(frozen=True, slots=True)
class Tables:
    """The files of both tables."""

    examples: tuple[ObjectEntry, ...]
    media: tuple[ObjectEntry, ...]


def tables_of(manifest: Manifest) -> Tables:
    """The tables of a manifest."""
    return Tables(tuple(manifest.examples), tuple(manifest.media))


class TableReader:
    """Reads one table by prefixes of its keys."""

    def __init__(self, storage: Storage, entries: Sequence[ObjectEntry], schema: TableSchema) -> None:
        self._storage = storage
        self._entries = entries
        self._schema = schema
        self._last: tuple[str, pl.DataFrame] = ("", pl.DataFrame())

    def prefixes(self, prefix: str) -> list[str]:
        """Into which prefixes, in order, a prefix is cut so that each lies in one file."""
        bits = sorted(prefix_of(entry) for entry in self._overlapping(prefix))
        return [max(prefix, one, key=len) for one in bits]

    def read(self, prefix: str) -> pl.DataFrame:
        """Rows of the items whose keys begin with these bits, in order.

        Raises:
            CorruptError: when a file is not as it was written.
        """
        first, last = key_range(prefix)
        is_inside = pl.col("item_key").is_between(pl.lit(first), pl.lit(last))
        frames = [self._load(entry).filter(is_inside) for entry in self._overlapping(prefix)]
        return pl.concat(frames) if frames else pl.DataFrame(schema=dict.fromkeys(self._schema.names))

    def _overlapping(self, prefix: str) -> Iterator[ObjectEntry]:
        for entry in self._entries:
            bits = prefix_of(entry)
            if bits.startswith(prefix) or prefix.startswith(bits):
                yield entry

    def _load(self, entry: ObjectEntry) -> pl.DataFrame:
        if self._last[0] != entry.path:
            self._last = ("", pl.DataFrame())
            self._last = (entry.path, self._parse(entry))
        return self._last[1]

    def _parse(self, entry: ObjectEntry) -> pl.DataFrame:
        data = read_object(self._storage, entry)
        try:
            frame = pl.read_parquet(BytesIO(data))
        except (pl.exceptions.PolarsError, OSError) as error:
            raise CorruptError(f"{self._storage.url}/{entry.path} is no parquet file: {error}") from error
        if frame.columns != self._schema.names:
            raise CorruptError(
                f"{self._storage.url}/{entry.path} has other columns than {self._schema.names}"
            )
        return frame


class LeafReader:
    """Reads the rows of leaves, in pieces of one file."""

    def __init__(self, storage: Storage, tables: Tables) -> None:
        self._examples = TableReader(storage, tables.examples, EXAMPLES)
        self._media = TableReader(storage, tables.media, MEDIA)

    def examples(self, leaf: Leaf) -> Iterator[pl.DataFrame]:
        """Rows of the table of examples."""
        for prefix in self._examples.prefixes(leaf.prefix):
            yield self._examples.read(prefix).filter(pl.col("modality") == leaf.modality.value)

    def media(self, leaf: Leaf) -> Iterator[pl.DataFrame]:
        """Rows of the table of media."""
        for prefix in self._media.prefixes(leaf.prefix):
            yield self._media.read(prefix).filter(_is_of(leaf.modality))

    def both(self, leaf: Leaf) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
        """Rows of both tables, about the same keys."""
        for prefix in self._examples.prefixes(leaf.prefix):
            examples = self._examples.read(prefix).filter(pl.col("modality") == leaf.modality.value)
            yield examples, self._media.read(prefix).filter(_is_of(leaf.modality))


def _is_of(modality: Modality) -> pl.Expr:
    """Whether a row of the table of media is about an item of a modality; as `schemas.medium.modality_of`."""
    num_media = pl.len().over("item_key")
    if modality is Modality.MULTI:
        return num_media > 1
    if kind := _KIND_OF.get(modality):
        return (num_media == 1) & (pl.col("kind") == kind.value)
    return pl.lit(value=False)
