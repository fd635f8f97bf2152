"""Memory for items that is used again as soon as nobody looks at it any more.

Who is handed an item may keep it as long as he likes, and never says when he is done; the interpreter counts
the references all the same. A room to which only this list refers is free. Memory that is new for every item
would come from the kernel page by page, which takes longer than reading what is in the page cache. A GPU
copies from pinned memory itself, without a copy in between.

The room that was handed out last is handed out first, while it still lies in the processor's caches. Free
rooms up to `max_free_bytes` are kept. Rests on CPython's counts: an interpreter without a global lock needs
another way.
"""

import sys
from threading import Lock
from typing import Any, Final, cast

import numpy as np
import torch
from jaxtyping import UInt8

MAX_FREE_BYTES: Final = 512 << 20
ALIGNMENT: Final = 64
_WASTE: Final = 1.25
"""A room may be so many times as large as what is put into it."""


class UsedRooms:
    """Rooms for items; safe to share between threads."""

    def __init__(self, max_free_bytes: int = MAX_FREE_BYTES, *, is_pinned: bool = False) -> None:
        """Begin with no room.

        Args:
            max_free_bytes: what may lie there unused.
            is_pinned: whether a GPU of this process copies from them.
        """
        self._max_free_bytes = max_free_bytes
        self._is_pinned = is_pinned
        self._rooms: list[UInt8[np.ndarray, " bytes"]] = []
        self._lock = Lock()

    def __reduce__(self) -> tuple[type["UsedRooms"], tuple[int]]:
        """Another process gets rooms that are not pinned: the GPU is not its own."""
        return type(self), (self._max_free_bytes,)

    def take(self, num_bytes: int) -> memoryview:
        """Room for so many bytes, at a multiple of 64; what stood there before may still stand there."""
        with self._lock:
            for place in reversed(range(len(self._rooms))):
                if num_bytes <= len(self._rooms[place]) <= _WASTE * num_bytes and self._is_free(place):
                    self._rooms.append(self._rooms.pop(place))
                    return self._hand_out(num_bytes)
            self._drop_free(num_bytes)
            size = num_bytes + -num_bytes % ALIGNMENT
            self._rooms.append(torch.empty(size, dtype=torch.uint8, pin_memory=self._is_pinned).numpy())
            return self._hand_out(num_bytes)

    def _is_free(self, place: int) -> bool:
        """Whether the list is the only one that refers to a room, the call itself aside."""
        return sys.getrefcount(self._rooms[place]) == _REFERENCES_OF_A_LIST

    def _hand_out(self, num_bytes: int) -> memoryview:
        return memoryview(cast("Any", self._rooms[-1]))[:num_bytes]

    def _drop_free(self, wanted: int) -> None:
        """Give free rooms back, the longest unused first, until with the new one there are not too many."""
        free = [place for place in range(len(self._rooms)) if self._is_free(place)]
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
