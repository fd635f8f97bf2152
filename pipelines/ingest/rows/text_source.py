"""The bytes of a text from some place on, forward only, into buffers that their reader keeps.

A reader takes more than it uses and gives the rest back: so every piece of text has a buffer of its own,
nothing is copied but these rests, and what reads a file and what unpacks one look the same.
"""

import io
from collections import deque
from typing import Final, Protocol, runtime_checkable

REMOTE_BLOCK_BYTES: Final = 8 << 20
"""Of a file that is not here: a request costs as much time as some megabytes."""


@runtime_checkable
class Readable(Protocol):
    """What can be read forward into a buffer."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill a buffer from its start, not always wholly; 0 at the end."""
        ...


class TextSource:
    """Bytes to come, those first that were given back."""

    def __init__(self, file: Readable, num_bytes: int | None = None, block_bytes: int = 0) -> None:
        """Read on from where the file stands.

        Args:
            file: to be read.
            num_bytes: how many at most; None: to the end.
            block_bytes: ask the file for no less; 0: for what is asked for here.
        """
        self._file = file
        self._left = num_bytes
        self._block_bytes = block_bytes
        self._returned: deque[memoryview] = deque()

    def read_into(self, view: memoryview) -> int:
        """Fill a buffer from its start; less than wholly only at the end."""
        filled = 0
        while filled < len(view):
            count = self._take_returned(view[filled:]) or self._read(view[filled:])
            if not count:
                break
            filled += count
        return filled

    def give_back(self, view: memoryview) -> None:
        """Bytes that are to come again, before all others."""
        if view:
            self._returned.appendleft(view)

    def _take_returned(self, view: memoryview) -> int:
        if not self._returned:
            return 0
        first = self._returned.popleft()
        count = min(len(first), len(view))
        view[:count] = first[:count]
        self.give_back(first[count:])
        return count

    def _read(self, view: memoryview) -> int:
        if len(view) >= self._block_bytes:
            return self._read_file(view)
        block = memoryview(bytearray(self._block_bytes))
        self.give_back(block[: self._read_file(block)])
        return self._take_returned(view)

    def _read_file(self, view: memoryview) -> int:
        wanted = len(view) if self._left is None else min(len(view), self._left)
        count = (self._file.readinto(view[:wanted]) or 0) if wanted else 0
        if self._left is not None:
            self._left -= count
        return count


def choose_block_bytes(file: io.RawIOBase) -> int:
    """How much is asked of a file at least."""
    return 0 if isinstance(file, io.FileIO) else REMOTE_BLOCK_BYTES
