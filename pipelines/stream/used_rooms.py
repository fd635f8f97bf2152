"""Memory for items that is used again as soon as nobody looks at it any more.

Who is handed an item may keep it as long as he likes, and never says when he is done; the interpreter counts
the references all the same. A room to which only this list refers is free. Memory that is new for every item
would come from the kernel page by page, which takes longer than reading what is in the page cache.

Free rooms up to `max_free_bytes` are kept. Rests on CPython's counts: an interpreter without a global lock
needs another way.
"""

import sys
from threading import Lock
from typing import Any, Final, cast

import numpy as np
import torch
from jaxtyping import UInt8

from pipelines.stream.item_room import ALIGNMENT

MAX_FREE_BYTES: Final = 512 << 20
_WASTE: Final = 1.25
"""A room may be so many times as large as what is put into it."""


class UsedRooms:
    """Rooms for items; safe to share between threads."""

    def __init__(self, max_free_bytes: int = MAX_FREE_BYTES) -> None:
        self._max_free_bytes = max_free_bytes
        self._rooms: list[UInt8[np.ndarray, " bytes"]] = []
        self._lock = Lock()

    def __reduce__(self) -> tuple[type["UsedRooms"], tuple[int]]:
        return type(self), (self._max_free_bytes,)

    def take(self, num_bytes: int) -> memoryview:
        """Room for so many bytes, at a multiple of 64; what stood there before may still stand there."""
        with self._lock:
            free = [place for place in range(len(self._rooms)) if self._is_free(place)]
            for place in free:
                if num_bytes <= len(self._rooms[place]) <= _WASTE * num_bytes:
                    return self._hand_out(place, num_bytes)
            self._drop(free, num_bytes)
            size = num_bytes + -num_bytes % ALIGNMENT
            self._rooms.append(torch.empty(size, dtype=torch.uint8).numpy())
            return self._hand_out(-1, num_bytes)

    def _is_free(self, place: int) -> bool:
        """Whether the list is the only one that refers to a room, the call itself aside."""
        return sys.getrefcount(self._rooms[place]) == _REFERENCES_OF_A_LIST

    def _hand_out(self, place: int, num_bytes: int) -> memoryview:
        return memoryview(cast("Any", self._rooms[place]))[:num_bytes]

    def _drop(self, free: list[int], wanted: int) -> None:
        """Give free rooms back, the oldest first, until with the new one there are not too many."""
        excess = sum(len(self._rooms[place]) for place in free) + wanted - self._max_free_bytes
        for place in free:
            if excess <= 0:
                break
            excess -= len(self._rooms[place])
            self._rooms[place] = np.empty(0, dtype=np.uint8)
        self._rooms = [room for room in self._rooms if len(room)]


def _count_references() -> int:
    room = [object()]
    return sys.getrefcount(room[0])


_REFERENCES_OF_A_LIST: Final = _count_references()
