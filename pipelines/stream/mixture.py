"""Which examples an epoch sees, and in which blocks their shards come.

A source of weight w in [0, 1] has w passes an epoch: example i with the fixed random number u_i is taken in
epoch e if floor(w (e + 1) + u_i) > floor(w e + u_i), in 32-bit fixed point. After e epochs each was seen
floor(w e) or ceil(w e) times, and never twice in one. No source runs out: its own epoch is w times that of
the run.
"""

import difflib
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from jaxtyping import Bool, Int64, Shaped, UInt8, UInt64

from pipelines.stream.hashing import Purpose, hash_ids, make_key
from schemas.errors import ConfigError

_ONE: Final = 1 << 32
"""1 in the fixed point of mixture weights."""


def scale_weights(names: list[str], weights: Mapping[str, float] | None) -> dict[str, float]:
    """Passes an epoch of every source: the largest weight is 1, sources without one are left out.

    Raises:
        ConfigError: for a weight of an unknown source.
    """
    if weights is None:
        return dict.fromkeys(names, 1.0)
    for name in weights:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(names)}"
            raise ConfigError(f"data.sources: the corpus has no source {name!r}; {hint}")
    largest = max(weights.values())
    return {name: weights.get(name, 0.0) / largest for name in names}


def take_examples(
    ids: UInt64[np.ndarray, " examples"],
    sources: UInt8[np.ndarray, " examples"],
    weights: Sequence[float],
    seed: int,
    epoch: int,
) -> Bool[np.ndarray, " examples"]:
    """Which examples an epoch sees, by the weights of their sources."""
    weight = np.array([round(weight * _ONE) for weight in weights], dtype=np.uint64)[sources]
    start = hash_ids(ids, make_key(seed, Purpose.TAKE)) >> np.uint64(32)
    return ((weight * np.uint64(epoch) + start) & np.uint64(_ONE - 1)) + weight >= np.uint64(_ONE)


def cut_blocks(
    modalities: UInt8[np.ndarray, " shards"], shards_per_block: int, seed: int, epoch: int
) -> list[Int64[np.ndarray, " _"]]:
    """Shards by block: shuffled within each modality, the modalities spread evenly over the blocks."""
    shards = np.arange(len(modalities), dtype=np.uint64)
    by_hash = hash_ids(shards, make_key(seed, epoch, Purpose.SHARDS))
    jitter = (hash_ids(shards, make_key(seed, epoch, Purpose.JITTER)) >> np.uint64(11)) / 2.0**53
    place = np.zeros(len(modalities))
    for modality in np.unique(modalities):
        members = np.flatnonzero(modalities == modality)
        shuffled = members[argsort(by_hash[members])]
        place[shuffled] = (np.arange(len(members)) + jitter[shuffled]) / len(members)
    count = max(1, round(len(modalities) / shards_per_block))
    return np.array_split(argsort(place), count)


def argsort(values: Shaped[np.ndarray, " values"]) -> Int64[np.ndarray, " values"]:
    """The stable one: equal values stay in order on every machine."""
    return np.argsort(values, kind="stable")
