"""Random views of a cache, each read and decoded alone.

Shards, items and views are those of lowest hash of (seed, name): the same seed finds the same views, whoever
looks. Shards count alike whatever they hold, so views of short shards are a little more likely. Costs the
index of each shard that is looked at, at most one a view, and of each view its header and its section.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from jaxtyping import Float16
from torch import Tensor

from operators.feature_file import MediumShape
from pipelines.stream.reader import FeatureReader
from schemas.digest import sha256_hex


@dataclass(frozen=True, slots=True)
class StoredView:
    """A view as the cache gives it."""

    shard: str
    key: str
    media: tuple[MediumShape, ...]
    view: int
    """Counted over all media of the item."""
    patches: Float16[Tensor, "patches width"]


def read_random_views(reader: FeatureReader, num_views: int, seed: int) -> Iterator[StoredView]:
    """So many views of different items; fewer where there are fewer items.

    Raises:
        CorruptError: naming shard and item, when the bytes are not those that were written.
        MismatchError: when they were made under another spec.
    """
    shards = sorted(reader.list_shards(), key=lambda name: _hash(seed, name))
    left = num_views
    for place, shard in enumerate(shards):
        keys = sorted(reader.list_keys(shard), key=lambda key: _hash(seed, key))
        chosen = keys[: -(-left // (len(shards) - place))]
        for key in sorted(chosen):
            media = reader.read_shapes(key, shard=shard)
            view = int(_hash(seed, f"view of {key}"), 16) % sum(medium.num_views for medium in media)
            yield StoredView(shard, key, media, view, reader.read_views(key, [view], shard=shard)[0])
        left -= len(chosen)
        if left <= 0:
            return


def _hash(seed: int, name: str) -> str:
    return sha256_hex(f"{seed}:{name}".encode())
