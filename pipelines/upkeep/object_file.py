"""An object, read once from start to end in windows, and hashed on the way."""

import hashlib
from typing import Final

from infra.storage import Storage
from schemas.corpus import ObjectEntry

WINDOW_BYTES: Final = 4 << 20


class ObjectFile:
    """Reads an object of known size; holds one window and what is asked for."""

    def __init__(self, storage: Storage, entry: ObjectEntry) -> None:
        self._storage = storage
        self._entry = entry
        self._hash = hashlib.sha256()
        self._window = memoryview(b"")
        self._position = 0

    def read(self, size: int, /) -> bytes:
        """The next `size` bytes, fewer at the end.

        Raises:
            NotFoundError: when the object is not there, or ends before it should.
        """
        pieces: list[memoryview] = []
        while size:
            if not self._window and not self._fill():
                break
            pieces.append(self._window[:size])
            size -= len(pieces[-1])
            self._window = self._window[len(pieces[-1]) :]
        return b"".join(pieces)

    def finish(self) -> str:
        """Read the rest; hex sha256 of everything."""
        while self._fill():
            pass
        return self._hash.hexdigest()

    def _fill(self) -> bool:
        length = min(WINDOW_BYTES, self._entry.num_bytes - self._position)
        if not length:
            return False
        data = self._storage.read_range(self._entry.path, self._position, length)
        self._hash.update(data)
        self._position += length
        self._window = memoryview(data)
        return True
