"""Items, put together from the tables of examples and media.

Both tables are sorted by key and cut by its leading bits, so the items below a prefix are found by reading
the files that overlap it; a worker keeps the last of each.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from infra.storage import Storage
from pipelines.ingest.plan import key_range
from pipelines.ingest.tables import ExampleRow, MediumRow, prefix_of, read_examples, read_media
from schemas.corpus import Manifest, ObjectEntry
from schemas.digest import digest_of
from schemas.errors import CorruptError
from schemas.medium import modality_of
from schemas.record import Modality

SHARD_FORMAT: Final = 2
"""Version of what a sample shard holds; part of every fingerprint."""


@dataclass(frozen=True, slots=True)
class Item:
    """Some media, or none, with all examples about them, sorted by id."""

    key: str
    modality: Modality
    media: tuple[MediumRow, ...]
    examples: tuple[ExampleRow, ...]


class ItemTables:
    """Reads items of a manifest by prefixes of their keys."""

    def __init__(self, storage: Storage, manifest: Manifest) -> None:
        self._storage = storage
        self._manifest = manifest
        self._examples: tuple[str, list[ExampleRow]] = ("", [])
        self._media: tuple[str, list[MediumRow]] = ("", [])

    def read_items(self, prefix: str) -> Iterator[Item]:
        """Items whose keys begin with these bits, sorted by key.

        Raises:
            CorruptError: when the tables are damaged or do not fit each other.
        """
        first, last = key_range(prefix)
        media: dict[str, list[MediumRow]] = {}
        for row in self._read_media(prefix):
            if first <= row.item_key <= last:
                media.setdefault(row.item_key, []).append(row)
        examples = (row for row in self._read_examples(prefix) if first <= row.item_key <= last)
        for key, group in groupby(examples, key=lambda row: row.item_key):
            rows = tuple(group)
            modality = rows[0].modality
            found = tuple(sorted(media.pop(key, ()), key=lambda row: row.position))
            if [row.position for row in found] != list(range(len(found))) or (
                modality is not modality_of(tuple(row.facts.kind for row in found))
            ):
                raise CorruptError(
                    f"{self._storage.url}: the tables disagree about the media of item {key}; ingest again"
                )
            yield Item(key, modality, found, rows)
        if media:
            raise CorruptError(f"{self._storage.url}: nothing is said about item {min(media)}; ingest again")

    def _read_examples(self, prefix: str) -> Iterator[ExampleRow]:
        for entry in _overlapping(self._manifest.examples, prefix):
            if self._examples[0] != entry.path:
                self._examples = (entry.path, list(read_examples(self._storage, entry)))
            yield from self._examples[1]

    def _read_media(self, prefix: str) -> Iterator[MediumRow]:
        for entry in _overlapping(self._manifest.media, prefix):
            if self._media[0] != entry.path:
                self._media = (entry.path, list(read_media(self._storage, entry)))
            yield from self._media[1]


def digest_item(item: Item) -> str:
    """Digest of all that an item brings into a sample shard.

    An example's id is a digest of its source, item, text and ordinal, so the text is covered by it.
    """
    media = [describe_medium(medium) for medium in item.media]
    examples = [example.example_id for example in item.examples]
    return digest_of([item.key, item.modality.value, media, examples])


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


def _overlapping(entries: Iterable[ObjectEntry], prefix: str) -> Iterator[ObjectEntry]:
    """Files whose keys may begin with these bits."""
    for entry in entries:
        bits = prefix_of(entry)
        if bits.startswith(prefix) or prefix.startswith(bits):
            yield entry
