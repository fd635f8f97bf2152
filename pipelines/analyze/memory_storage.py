"""A corpus that lives in this process: what a simulation commits to.

Objects are their bytes in a dict; those that only have to be there are empty. It has the same promises as the
others: `create` is exclusive, `replace` compares. Nothing here outlives the process.
"""

from collections.abc import Iterable
from typing import Final

from infra.storage import SeekableFile, Seen, StoredObject
from schemas.errors import ConflictError, NotFoundError

URL: Final = "memory:"


class MemoryStorage:
    """A `Storage` for one process."""

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}

    @property
    def url(self) -> str:
        """For messages."""
        return URL

    def exists(self, path: str) -> bool:
        """Whether something was stored there."""
        return path in self._objects

    def read_bytes(self, path: str) -> bytes:
        """All of it.

        Raises:
            NotFoundError: there is nothing.
        """
        try:
            return self._objects[path]
        except KeyError as error:
            raise NotFoundError(f"{URL}{path} is not there") from error

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """A part of it."""
        return self.read_bytes(path)[offset : offset + length]

    def read_into(self, path: str, offset: int, room: memoryview, seen: Seen | None = None) -> None:
        """Fill a buffer.

        Raises:
            NotFoundError: there is nothing, or it ends before.
        """
        data = self.read_range(path, offset, len(room))
        if len(data) < len(room):
            raise NotFoundError(f"{URL}{path} ends before {offset + len(room)}")
        room[:] = data
        if seen is not None:
            seen(len(room))

    def put(self, path: str, file: SeekableFile) -> None:
        """Store what is in a file."""
        file.seek(0)
        self._objects[path] = file.read()

    def create(self, path: str, data: bytes) -> bool:
        """Store, unless something is there."""
        if path in self._objects:
            return False
        self._objects[path] = data
        return True

    def replace(self, path: str, data: bytes, expected: bytes | None) -> None:
        """Store in place of what is expected there.

        Raises:
            ConflictError: something else is there.
        """
        if self._objects.get(path) != expected:
            raise ConflictError(f"{URL}{path} was replaced meanwhile; run the command again")
        self._objects[path] = data

    def write_scratch(self, path: str, pieces: Iterable[bytes | memoryview]) -> None:
        """Store pieces one after the other."""
        self._objects[path] = b"".join(pieces)

    def remove(self, path: str) -> None:
        """Forget it, if it is there."""
        self._objects.pop(path, None)

    def sweep_unfinished(self, min_age_s: float) -> list[str]:
        """Nothing is ever half written here."""
        return []

    def list_objects(self, folder: str) -> list[StoredObject]:
        """All below a folder, none of any age."""
        return [StoredObject(path, len(self._objects[path]), 0.0) for path in self.list(folder)]

    def list(self, folder: str) -> list[str]:
        """The paths below a folder."""
        return [path for path in self._objects if path.startswith(f"{folder}/")]
