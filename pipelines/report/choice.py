"""Which items a page shows: some of every modality, those of lowest hash.

The same corpus shows the same items, whoever looks, and a sample by hash is a random one. A few shards are
opened for it, however many there are: so many items are taken from so many shards of lowest hash.
"""

from collections.abc import Iterator
from typing import Final

from infra.storage import Storage
from pipelines.featurize.samples import SampleShard
from schemas.corpus import Manifest, ShardEntry
from schemas.digest import sha256_hex
from schemas.record import Modality

PER_MODALITY: Final = {Modality.IMAGE: 10, Modality.VIDEO: 4, Modality.MULTI: 4, Modality.TEXT: 3}


def choose_items(
    storage: Storage, manifest: Manifest
) -> Iterator[tuple[Modality, ShardEntry, SampleShard, list[str]]]:
    """Shards with the keys of theirs that are shown, modality by modality.

    Raises:
        CorruptError: when an index is damaged.
    """
    for modality, num_items in PER_MODALITY.items():
        shards = [shard for shard in manifest.shards if shard.name.startswith(f"{modality.value}-")]
        left = num_items
        chosen = sorted(shards, key=lambda shard: sha256_hex(shard.name.encode()))[:num_items]
        for place, entry in enumerate(chosen):
            opened = SampleShard(storage, entry)
            keys = sorted(opened.list_keys(), key=lambda key: sha256_hex(key.encode()))
            shown = sorted(keys[: -(-left // (len(chosen) - place))])
            left -= len(shown)
            yield modality, entry, opened, shown
