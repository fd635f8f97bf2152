"""Where items lie, by the indexes of their shards.

An index is read when it is first needed and checked against the manifest; the last 128 are kept, about 100 KB
each.
"""

from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock
from typing import Final

from infra.storage import Storage
from infra.tar import Member, read_index
from pipelines.commit import read_object
from pipelines.stream.spans import Place, named_item
from schemas.corpus import ShardEntry
from schemas.errors import CorruptError, NotFoundError

KEPT_INDEXES: Final = 128
FEATURE_SUFFIX: Final = ".feat.bin"


class ShardIndexes:
    """Of the feature shards of one spec; safe to share between threads."""

    def __init__(self, storage: Storage, shards: Sequence[ShardEntry], spec: str) -> None:
        self._storage = storage
        self._spec = spec
        self._kept: OrderedDict[str, dict[str, Member]] = OrderedDict()
        self._lock = Lock()
        self.shards = {shard.name: shard for shard in shards}

    def find(self, shard: str, key: str) -> Place:
        """An item of a shard.

        Raises:
            NotFoundError: when there is no such shard.
            CorruptError: when its index is not what was written, or lists no such item.
        """
        entry = self._entry(shard)
        with named_item(shard, key):
            member = self.list_members(shard).get(key)
            if member is None:
                raise CorruptError("the index of the shard does not list it")
        return Place(entry, key, member)

    def find_shard(self, key: str) -> str:
        """The shard that holds an item, by searching all.

        Raises:
            NotFoundError: when none does.
        """
        for name in self.shards:
            if key in self.list_members(name):
                return name
        raise NotFoundError(f"no feature shard of spec {self._spec} holds item {key}")

    def list_members(self, shard: str) -> dict[str, Member]:
        """Items of a shard by their keys, in order.

        Raises:
            NotFoundError: when there is no such shard.
            CorruptError: when its index is not what was written.
        """
        entry = self._entry(shard)
        with self._lock:
            if shard not in self._kept:
                members = read_index(read_object(self._storage, entry.index))
                self._kept[shard] = {
                    member.name.removesuffix(FEATURE_SUFFIX): member
                    for member in members
                    if member.name.endswith(FEATURE_SUFFIX)
                }
                if len(self._kept) > KEPT_INDEXES:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(shard)
            return self._kept[shard]

    def _entry(self, shard: str) -> ShardEntry:
        if shard not in self.shards:
            raise NotFoundError(f"spec {self._spec} has no shard {shard}; run `onetoken featurize`")
        return self.shards[shard]
