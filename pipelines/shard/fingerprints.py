"""What a leaf holds, as one digest: computed from columns of the tables, without a medium or a conversation.

A column is hashed value by value in order of the keys, so how the tables are cut into files plays no part: a
corpus that grew keeps the fingerprints of the leaves that did not change. It takes a few microseconds a row.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import polars as pl

from pipelines.shard.tables import LeafReader
from schemas.digest import digest_of
from schemas.plan import Leaf

SHARD_FORMAT: Final = 2
"""Version of what a sample shard holds; part of every fingerprint."""
_NUMBERS: Final[Mapping[str, str]] = {
    "position": "<i4",
    "num_bytes": "<i8",
    "width_px": "<i4",
    "height_px": "<i4",
    "duration_s": "<f8",
}
_MEDIA: Final = ("item_key", "position", "sha256", "kind", "extension", *list(_NUMBERS)[1:])
_EXAMPLES: Final = ("item_key", "example_id")
"""An id is a digest of source, item, text and ordinal, so the text is covered."""


def fingerprint_samples(reader: LeafReader, leaf: Leaf) -> str:
    """Digest of all that decides the bytes of a sample shard."""
    media, examples = (
        _digest_columns(reader.media(leaf), _MEDIA),
        _digest_columns(reader.examples(leaf), _EXAMPLES),
    )
    return digest_of(["sample-shard", SHARD_FORMAT, leaf.modality.value, media, examples])


def fingerprint_media(reader: LeafReader, leaf: Leaf) -> str:
    """Digest of the media of a leaf: the same whatever is said about them."""
    return digest_of([leaf.modality.value, _digest_columns(reader.media(leaf), _MEDIA)])


def _digest_columns(frames: Iterable[pl.DataFrame], names: Iterable[str]) -> dict[str, str]:
    digests = {name: hashlib.sha256() for name in names}
    for frame in frames:
        if len(frame):
            for name, digest in digests.items():
                digest.update(_spell(frame[name]))
    return {name: digest.hexdigest() for name, digest in digests.items()}


def _spell(column: pl.Series) -> bytes:
    """Values one after the other: numbers in their bytes, each text on a line."""
    if kind := _NUMBERS.get(column.name):
        values: np.ndarray[Any, Any] = column.to_numpy()
        return values.astype(kind, copy=False).tobytes()
    return ("\n".join(column.to_list()) + "\n").encode()
