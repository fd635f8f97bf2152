"""Read-only input files, on disk here, on S3 in `infra/s3_files.py`.

What a user feeds in: annotation files, media, archives. Unlike storage it is never written, and its paths are
the user's own: links are followed, and `..` and absolute paths lead where they lead. Whoever takes paths from
strangers checks them first (`pipelines/ingest/media/root.py`).

An open file reads at once what it is asked for, one system call or one ranged request per read, and buffers
nothing: readers of archives and tables know best how much they want. A `Files` object holds its URL and
nothing else that a worker could not make again, so it travels to workers.
"""

import glob
import io
import os
import stat
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from schemas.errors import ConfigError, NotFoundError


class FileState(NamedTuple):
    """What stands for the bytes of a file without reading them: another state means other bytes."""

    num_bytes: int
    mtime_ns: int
    etag: str = ""
    """On S3."""


@runtime_checkable
class Files(Protocol):
    """What the pipelines know of input files; paths start from the URL."""

    @property
    def url(self) -> str:
        """The folder or prefix."""
        ...

    def glob(self, pattern: str) -> list[str]:
        """Plain files that a path or pattern names, sorted: `*`, `?`, `[...]`, and `**` for any folders.

        A path that is there names itself, whatever characters it has. No wildcard stands for a leading dot.
        """
        ...

    def state(self, path: str) -> FileState:
        """The state of a plain file.

        Raises:
            NotFoundError: when there is none.
        """
        ...

    def open(self, path: str) -> io.RawIOBase:
        """A plain file, to read from any place of it.

        Raises:
            NotFoundError: when there is none.
        """
        ...

    def list_folder(self, folder: str) -> dict[str, FileState]:
        """The plain files directly in a folder, by name; none for a folder that is not there."""
        ...


def open_files(url: str | Path) -> Files:
    """The files at a path or URL.

    Raises:
        ConfigError: for a scheme that is not known, or a name that can be no bucket.
    """
    text = str(url)
    scheme, separator, _ = text.partition("://")
    if separator and scheme == "s3":
        from infra.s3_files import S3Files  # local runs load no S3 library

        return S3Files(text)
    if separator and scheme != "file":
        raise ConfigError(f"{text}: no files at {scheme}://; use a local path or s3://BUCKET/PREFIX")
    return LocalFiles(text.removeprefix("file://"))


class LocalFiles:
    """Files of this machine."""

    def __init__(self, folder: str) -> None:
        self._folder = os.path.abspath(folder)

    def __repr__(self) -> str:
        return f"LocalFiles({self._folder!r})"

    @property
    def url(self) -> str:
        """The folder."""
        return self._folder

    def glob(self, pattern: str) -> list[str]:
        """See `Files.glob`."""
        if self._is_plain(pattern):
            return [pattern]
        found = glob.glob(pattern, root_dir=self._folder, recursive=True)
        return sorted(path for path in set(found) if self._is_plain(path))

    def state(self, path: str) -> FileState:
        """See `Files.state`."""
        try:
            status = os.stat(self._join(path))
        except OSError as error:
            raise self._error_of(error, path) from error
        return self._state_of(status, path)

    def open(self, path: str) -> io.RawIOBase:
        """See `Files.open`; a pipe or a device is not waited for."""
        try:
            descriptor = os.open(self._join(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise self._error_of(error, path) from error
        try:
            self._state_of(os.fstat(descriptor), path)
        except NotFoundError:
            os.close(descriptor)
            raise
        return io.FileIO(descriptor)

    def list_folder(self, folder: str) -> dict[str, FileState]:
        """See `Files.list_folder`."""
        found: dict[str, FileState] = {}
        try:
            with os.scandir(self._join(folder)) as entries:
                for entry in entries:
                    if entry.is_file():
                        found[entry.name] = self._state_of(entry.stat(), entry.path)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            raise self._error_of(error, folder) from error
        return found

    def _join(self, path: str) -> str:
        return os.path.join(self._folder, path)

    def _is_plain(self, path: str) -> bool:
        return os.path.isfile(self._join(path))

    def _state_of(self, status: os.stat_result, path: str) -> FileState:
        if not stat.S_ISREG(status.st_mode):
            raise NotFoundError(f"{self._join(path)} is no plain file")
        return FileState(status.st_size, status.st_mtime_ns)

    def _error_of(self, error: OSError, path: str) -> ConfigError | NotFoundError:
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            return NotFoundError(f"{self._join(path)} is not there")
        return ConfigError(f"{self._join(path)} cannot be read: {error.strerror}")
