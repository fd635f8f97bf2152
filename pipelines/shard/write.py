"""One sample shard: its items, read back from where ingest found them, into a tar.

    KEY.0.jpg   a medium's bytes as published, whatever the extension is; `.1.`, `.2.`, ... if there are more
    KEY.json    key, modality, media facts, and the conversations in LLaVA's own from/value form

A medium is checked against its sha256 before it is written: bytes that changed since ingest end the run,
for the plan was made of other bytes. Media of one shard are held in memory, so that rows of a parquet
file are read in the order of the file; the tar itself goes through a temporary file.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from infra.space import temporary_file
from infra.storage import Storage
from infra.tar import pack_index, write_shard
from pipelines.commit import commit, find_commit, put_file, put_object
from pipelines.ingest.media.reader import MediaReader, MediaSource
from pipelines.ingest.tables import ExampleRow, MediumRow
from pipelines.shard.done import LeafDone
from pipelines.shard.fingerprints import fingerprint_samples
from pipelines.shard.items import Item, ItemTables, describe_medium
from pipelines.shard.tables import Tables
from schemas.corpus import CommitRecord
from schemas.digest import canonical_json, sha256_hex
from schemas.errors import MismatchError, RejectCode, SampleError
from schemas.plan import Leaf

FOLDER: Final = "shards"
_WAY_OUT: Final = "run ingest again, with --reread if neither size nor time of the file have changed"


@dataclass(frozen=True, slots=True)
class ShardWorker:
    """Builds the writing function inside a worker."""

    storage: Storage
    tables: Tables
    sources: tuple[MediaSource, ...]

    def build(self) -> Callable[[Leaf], LeafDone]:
        """See `Worker.build`."""
        tables = ItemTables(self.storage, self.tables)
        reader = MediaReader(self.sources)

        def write_leaf(leaf: Leaf) -> LeafDone:
            fingerprint = fingerprint_samples(tables.reader, leaf)
            if found := find_commit(self.storage, unit_name(leaf), fingerprint):
                return LeafDone(found, is_new=False)
            items = list(tables.read_items(leaf))
            return LeafDone(write_items(self.storage, leaf, fingerprint, items, reader))

        return write_leaf


def write_items(
    storage: Storage, leaf: Leaf, fingerprint: str, items: Sequence[Item], reader: MediaReader
) -> CommitRecord:
    """Write a shard and its index and commit both.

    Raises:
        MismatchError: when a medium is no longer what ingest saw.
        ConflictError: when somebody committed other bytes for the same items.
    """
    data = read_media_data(reader, [medium for item in items for medium in item.media])
    with temporary_file() as file:
        written = write_shard(_list_members(items, data), file)
        tar = put_file(storage, FOLDER, leaf.name, "tar", file, written.sha256, len(items))
    index = put_object(storage, FOLDER, leaf.name, "idx", pack_index(written.members), len(written.members))
    record = CommitRecord(
        unit=unit_name(leaf),
        fingerprint=fingerprint,
        objects=[tar, index],
        counts={"items": len(items), "examples": sum(len(item.examples) for item in items)},
    )
    return commit(storage, record)


def unit_name(leaf: Leaf) -> str:
    """The name of a leaf among commits."""
    return f"shard-{leaf.name}"


def read_media_data(reader: MediaReader, media: Sequence[MediumRow]) -> dict[str, bytes]:
    """The bytes of media by sha256, checked.

    Raises:
        MismatchError: when the bytes are gone or others than ingest saw.
    """
    data: dict[str, bytes] = {}
    for medium in sorted(media, key=lambda row: (row.source, _row_last(row.location))):
        facts = medium.facts
        try:
            found = reader.read(medium.source, medium.location, facts.kind)
        except SampleError as error:
            raise MismatchError(f"{_explain(medium, reader)}: {error.message}; {_WAY_OUT}") from error
        if sha256_hex(found) != facts.sha256:
            raise MismatchError(f"{_explain(medium, reader)}: its bytes have changed; {_WAY_OUT}")
        data[facts.sha256] = found
    return data


def _list_members(items: Sequence[Item], data: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    for item in items:
        for medium in item.media:
            facts = medium.facts
            yield f"{item.key}.{medium.position}.{facts.extension}", data[facts.sha256]
        yield f"{item.key}.json", describe_item(item)


def describe_item(item: Item) -> bytes:
    """What stands in `KEY.json`: canonical, and free of row numbers and file names."""
    return canonical_json(
        {
            "key": item.key,
            "modality": item.modality.value,
            "media": [describe_medium(medium) for medium in item.media],
            "examples": [_describe_example(example) for example in item.examples],
        }
    )


def _describe_example(example: ExampleRow) -> dict[str, object]:
    turns = msgspec.json.decode(example.conversation, type=list[tuple[str, str]])
    return {
        "example_id": example.example_id,
        "source": example.source,
        "conversations": [{"from": role, "value": text} for role, text in turns],
    }


def _row_last(location: str) -> tuple[str, int, str]:
    """Sort key: rows of a parquet file by number."""
    file, _, place = location.rpartition("#")
    row, _, position = place.partition("/")
    return (file, int(row), position) if row.isdecimal() else (location, 0, "")


def _explain(medium: MediumRow, reader: MediaReader) -> str:
    path = reader.describe(medium.source, medium.location)
    code = RejectCode.MEDIUM_CHANGED.value
    return f"{code}: source {medium.source}: {path} is not what ingest saw"
