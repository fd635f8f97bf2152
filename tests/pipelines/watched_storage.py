"""Local storage that dies, or that remembers what was read."""

from pathlib import Path

from infra.storage import LocalStorage


class DiedError(Exception):
    """The process was killed."""


class MortalStorage(LocalStorage):
    """Storage of a process that is killed after so many writes; each is whole or not there at all."""

    def __init__(self, root, num_writes):
        super().__init__(Path(root))
        self._left = num_writes

    def _live(self):
        if not self._left:
            raise DiedError
        self._left -= 1

    def put(self, path, file):
        self._live()
        super().put(path, file)

    def write_scratch(self, path, pieces):
        self._live()
        super().write_scratch(path, pieces)

    def create(self, path, data):
        self._live()
        return super().create(path, data)

    def replace(self, path, data, expected):
        self._live()
        super().replace(path, data, expected)


class WatchedStorage(LocalStorage):
    """Remembers the paths that were read."""

    def __init__(self, root):
        super().__init__(Path(root))
        self.paths_read = []

    def read_bytes(self, path):
        self.paths_read.append(path)
        return super().read_bytes(path)

    def read_range(self, path, offset, length):
        self.paths_read.append(path)
        return super().read_range(path, offset, length)


def read_objects(root: Path | str) -> dict[str, bytes]:
    """Every object below a corpus, by its path; what begins with a dot is none."""
    files = (path for path in Path(root).rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}
