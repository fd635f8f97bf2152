"""Items, put together from the rows of both tables, a file of them at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import polars as pl

from infra.storage import Storage
from pipelines.ingest.tables import EXAMPLES, MEDIA, ExampleRow, MediumRow
from pipelines.shard.tables import LeafReader, Tables
from schemas.errors import CorruptError
from schemas.medium import MediumFacts, modality_of
from schemas.plan import Leaf
from schemas.record import MediumKind, Modality


@dataclass(frozen=True, slots=True)
class Item:
    """Some media, or none, with all examples about them, sorted by id."""

    key: str
    modality: Modality
    media: tuple[MediumRow, ...]
    examples: tuple[ExampleRow, ...]


class ItemTables:
    """Reads the items of leaves."""

    def __init__(self, storage: Storage, tables: Tables) -> None:
        self._storage = storage
        self.reader = LeafReader(storage, tables)

    def read_items(self, leaf: Leaf) -> Iterator[Item]:
        """Items of a leaf, sorted by key.

        Raises:
            CorruptError: when the tables are damaged or do not fit each other.
        """
        for example_frame, medium_frame in self.reader.both(leaf):
            yield from self._join(leaf.modality, example_frame, medium_frame)

    def _join(self, modality: Modality, examples: pl.DataFrame, media: pl.DataFrame) -> Iterator[Item]:
        media_of: dict[str, list[MediumRow]] = {}
        for row in _list_media(media):
            media_of.setdefault(row.item_key, []).append(row)
        for key, group in groupby(_list_examples(examples), key=lambda row: row.item_key):
            found = tuple(sorted(media_of.pop(key, ()), key=lambda row: row.position))
            if [row.position for row in found] != list(range(len(found))) or (
                modality is not modality_of(tuple(row.facts.kind for row in found))
            ):
                raise CorruptError(
                    f"{self._storage.url}: the tables disagree about the media of item {key}; ingest again"
                )
            yield Item(key, modality, found, tuple(group))
        if media_of:
            key = min(media_of)
            raise CorruptError(f"{self._storage.url}: nothing is said about item {key}; ingest again")


def describe_medium(medium: MediumRow) -> dict[str, object]:
    """What a shard tells of a medium."""
    facts = medium.facts
    return {
        "sha256": facts.sha256,
        "kind": facts.kind.value,
        "extension": facts.extension,
        "num_bytes": facts.num_bytes,
        "width_px": facts.width_px,
        "height_px": facts.height_px,
        "duration_s": facts.duration_s,
    }


def _list_examples(frame: pl.DataFrame) -> Iterator[ExampleRow]:
    for row in frame.iter_rows():
        values = dict(zip(EXAMPLES.names, row, strict=True))
        values["modality"] = Modality(values["modality"])
        yield ExampleRow(**values)


def _list_media(frame: pl.DataFrame) -> Iterator[MediumRow]:
    for row in frame.iter_rows():
        values = dict(zip(MEDIA.names, row, strict=True))
        values["kind"] = MediumKind(values["kind"])
        facts = MediumFacts(**{name: values.pop(name) for name in MediumFacts._fields})
        yield MediumRow(facts=facts, **values)
