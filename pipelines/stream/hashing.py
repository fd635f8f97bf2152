"""Randomness as a fixed integer hash: splitmix64 of a stable id, keyed by seed, epoch and purpose.

Library generators may change their streams between versions, and a stream depends on how many numbers were
drawn before; a hash of the id does neither. Source: Steele, Lea, Flood, "Fast splittable pseudorandom number
generators", OOPSLA 2014, figure 17.
"""

from enum import IntEnum
from typing import Final

import numpy as np
from jaxtyping import UInt64

_INCREMENT: Final = 0x9E3779B97F4A7C15
_FIRST: Final = 0xBF58476D1CE4E5B9
_SECOND: Final = 0x94D049BB133111EB
_MASK: Final = 2**64 - 1


class Purpose(IntEnum):
    """What a hash decides: equal ids give unrelated numbers for different purposes."""

    TAKE = 1
    SHARDS = 2
    JITTER = 3
    EXAMPLES = 4
    UNITS = 5
    STEPS = 6


def mix_integer(value: int) -> int:
    """One step of splitmix64."""
    value = (value + _INCREMENT) & _MASK
    value = ((value ^ (value >> 30)) * _FIRST) & _MASK
    value = ((value ^ (value >> 27)) * _SECOND) & _MASK
    return value ^ (value >> 31)


def make_key(*parts: int) -> int:
    """One key of several numbers; their order counts."""
    key = 0
    for part in parts:
        key = mix_integer(key ^ mix_integer(part & _MASK))
    return key


def hash_ids(ids: UInt64[np.ndarray, " ids"], key: int) -> UInt64[np.ndarray, " ids"]:
    """One 64-bit number per id."""
    value = (ids ^ np.uint64(key)) + np.uint64(_INCREMENT)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(_FIRST)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(_SECOND)
    return value ^ (value >> np.uint64(31))
