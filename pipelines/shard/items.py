"""Items, put together from the tables of examples and media.

Both tables are sorted by key and cut by its leading digits, so the items of a range of keys are found by
reading the files that overlap it; a worker keeps the last of each.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from infra.storage import Storage
from pipelines.ingest.tables import WHOLE_TABLE, ExampleRow, MediumRow, read_examples, read_media
from schemas.corpus import Manifest, ObjectEntry
from schemas.digest import digest_of
from schemas.errors import CorruptError
from schemas.medium import item_key_of_media
from schemas.record import Modality

SHARD_FORMAT: Final = 1
"""Version of what a sample shard holds; part of every fingerprint."""


@dataclass(frozen=True, slots=True)
class Item:
    """One medium, or none, with all its examples, sorted by id."""

    key: str
    modality: Modality
    medium: MediumRow | None
    examples: tuple[ExampleRow, ...]


class ItemTables:
    """Reads items of a manifest by ranges of keys."""

    def __init__(self, storage: Storage, manifest: Manifest) -> None:
        self._storage = storage
        self._manifest = manifest
        self._examples: tuple[str, list[ExampleRow]] = ("", [])
        self._media: tuple[str, list[MediumRow]] = ("", [])

    def read_items(self, first: str, last: str) -> Iterator[Item]:
        """Items with first <= key <= last, sorted by key.

        Raises:
            CorruptError: when the tables are damaged or do not fit each other.
        """
        media = {item_key_of_media((row.facts.sha256,)): row for row in self._read_media(first, last)}
        examples = self._read_examples(first, last)
        for key, group in groupby(examples, key=lambda row: row.item_key):
            rows = tuple(group)
            modality = rows[0].modality
            if (modality is not Modality.TEXT) != (key in media):
                raise CorruptError(
                    f"{self._storage.url}: the tables disagree about the medium of item {key}; ingest again"
                )
            yield Item(key, modality, media.get(key), rows)

    def _read_examples(self, first: str, last: str) -> Iterator[ExampleRow]:
        for entry in _overlapping(self._manifest.examples, first, last):
            if self._examples[0] != entry.path:
                self._examples = (entry.path, list(read_examples(self._storage, entry)))
            yield from (row for row in self._examples[1] if first <= row.item_key <= last)

    def _read_media(self, first: str, last: str) -> Iterator[MediumRow]:
        for entry in _overlapping(self._manifest.media, first, last):
            if self._media[0] != entry.path:
                self._media = (entry.path, list(read_media(self._storage, entry)))
            yield from (row for row in self._media[1] if first <= row.facts.sha256[: len(first)] <= last)


def digest_item(item: Item) -> str:
    """Digest of all that an item brings into a sample shard.

    An example's id is a digest of its source, item, text and ordinal, so the text is covered by it.
    """
    medium = describe_medium(item.medium) if item.medium else None
    examples = [example.example_id for example in item.examples]
    return digest_of([item.key, item.modality.value, medium, examples])


def fingerprint_shard(item_digests: Sequence[str]) -> str:
    """Digest of all that decides the bytes of a sample shard."""
    return digest_of(["sample-shard", SHARD_FORMAT, list(item_digests)])


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


def _overlapping(entries: Iterable[ObjectEntry], first: str, last: str) -> Iterator[ObjectEntry]:
    """Files whose keys may lie in a range: their name is the beginning of all their keys."""
    for entry in entries:
        name = entry.path.rpartition("/")[2].partition("-")[0]
        digits = 0 if name == WHOLE_TABLE else len(name)
        if not digits or first[:digits] <= name <= last[:digits]:
            yield entry
