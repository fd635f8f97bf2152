"""Items of a sample shard: facts and bytes of their media, conversations passed over.

Read through the index, a member at a time, each checked against its checksum; what is held is one item.
"""

from collections.abc import Container, Iterator
from typing import Final

import msgspec

from infra.storage import Storage
from infra.tar import check_member, read_index
from pipelines.commit import read_object
from schemas.corpus import ShardEntry

_FACTS: Final = ".json"


class StoredMedium(msgspec.Struct, frozen=True):
    """A medium as `KEY.json` of a sample shard tells of it."""

    sha256: str
    kind: str
    extension: str
    num_bytes: int
    width_px: int
    height_px: int
    duration_s: float


class StoredItem(msgspec.Struct, frozen=True):
    """What featurizing needs of `KEY.json`; the conversations are passed over."""

    key: str
    modality: str
    media: list[StoredMedium]


class IndexedShard:
    """A shard whose index was read; members can be read from any thread."""

    def __init__(self, storage: Storage, shard: ShardEntry) -> None:
        """Read the index.

        Raises:
            CorruptError: when it is damaged.
        """
        self._storage = storage
        self._path = shard.tar.path
        self._members = {member.name: member for member in read_index(read_object(storage, shard.index))}

    def list_keys(self) -> list[str]:
        """Keys of the items, in order."""
        return [name.removesuffix(_FACTS) for name in self._members if name.endswith(_FACTS)]

    def holds(self, name: str) -> bool:
        """Whether there is a member of this name."""
        return name in self._members

    def read_member(self, name: str) -> bytes:
        """The bytes of a member.

        Raises:
            CorruptError: when they are not those that were written.
        """
        member = self._members[name]
        data = self._storage.read_range(self._path, member.offset, member.size)
        return check_member(member, data, f"{self._storage.url}/{self._path}")


class SampleShard(IndexedShard):
    """Items of a sample shard."""

    def read_facts(self, key: str) -> StoredItem:
        """An item without its media.

        Raises:
            CorruptError: when the shard is damaged.
        """
        return msgspec.json.decode(self.read_description(key), type=StoredItem)

    def read_description(self, key: str) -> bytes:
        """`KEY.json`: what is known of an item, conversations too.

        Raises:
            CorruptError: when the shard is damaged.
        """
        return self.read_member(f"{key}{_FACTS}")

    def read_item(self, key: str) -> tuple[StoredItem, list[bytes]]:
        """An item with the bytes of its media.

        Raises:
            CorruptError: when the shard is damaged.
        """
        stored = self.read_facts(key)
        names = [f"{key}.{index}.{medium.extension}" for index, medium in enumerate(stored.media)]
        return stored, [self.read_member(name) for name in names]


def read_sample_items(
    storage: Storage, shard: ShardEntry, keys: Container[str]
) -> Iterator[tuple[StoredItem, list[bytes]]]:
    """Some items of a sample shard in order of their keys, each with the bytes of its media.

    Raises:
        CorruptError: when shard or index are damaged.
    """
    opened = SampleShard(storage, shard)
    return (opened.read_item(key) for key in opened.list_keys() if key in keys)
