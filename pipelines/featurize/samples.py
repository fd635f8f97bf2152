"""Items of a sample shard: facts and bytes of their media, conversations passed over.

Read through the index, a member at a time, each checked against its checksum; what is held is one item.
"""

from collections.abc import Container, Iterator

import msgspec

from infra.storage import Storage
from infra.tar import Member, check_member, read_index
from pipelines.commit import read_object
from schemas.corpus import ShardEntry


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


def list_keys(storage: Storage, shard: ShardEntry) -> list[str]:
    """Keys of the items of a sample shard, in order."""
    names = (member.name for member in read_index(read_object(storage, shard.index)))
    return [name.removesuffix(".json") for name in names if name.endswith(".json")]


def read_sample_items(
    storage: Storage, shard: ShardEntry, keys: Container[str] | None = None
) -> Iterator[tuple[StoredItem, list[bytes]]]:
    """Items of a sample shard in order of their keys, each with the bytes of its media; all, or some.

    Raises:
        CorruptError: when shard or index are damaged.
    """
    members = {member.name: member for member in read_index(read_object(storage, shard.index))}
    for name, member in members.items():
        if not name.endswith(".json") or (keys is not None and name.removesuffix(".json") not in keys):
            continue
        stored = msgspec.json.decode(_read_member(storage, shard, member), type=StoredItem)
        names = [f"{stored.key}.{index}.{medium.extension}" for index, medium in enumerate(stored.media)]
        yield stored, [_read_member(storage, shard, members[name]) for name in names]


def _read_member(storage: Storage, shard: ShardEntry, member: Member) -> bytes:
    data = storage.read_range(shard.tar.path, member.offset, member.size)
    return check_member(member, data, f"{storage.url}/{shard.tar.path}")
