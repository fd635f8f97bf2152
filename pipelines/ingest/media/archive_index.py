"""The members of an archive by name and by stem, on disk.

Half a million members would take hundreds of megabytes as objects in every worker, and listing a tar of that
size takes minutes. So an archive is listed once per machine, into a SQLite file in the folder for temporary
files, where a lookup takes some microseconds and a worker holds two megabytes of pages.

The file is named by the archive's path and says which state of the archive it describes; where that is
another one, or the file is damaged, it is made again. Whoever makes it holds a lock, so workers that start
together wait for one of them, and it appears under its name only when it is whole. The folder has to belong
to this user alone. Nothing sweeps it: it holds one file per archive, some 100 bytes a member.
"""

import fcntl
import os
import posixpath
import sqlite3
import stat
import tempfile
from collections.abc import Callable, Generator, Iterable
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

from infra.files import FileState
from infra.space import OR_ELSEWHERE, no_space
from pipelines.ingest.media.archive_member import ArchiveMember
from pipelines.ingest.media.root import split_path
from schemas.digest import SHORT, sha256_hex
from schemas.errors import ConfigError, CorruptError

_FORMAT: Final = "archive-index/1"
_SCHEMA: Final = """
create table members (
  folder text not null, name text not null, stem text not null, position integer not null,
  offset integer not null, stored_bytes integer not null, num_bytes integer not null,
  method integer not null, crc integer not null, problem text not null,
  primary key (folder, stem, name, position)
) without rowid;
create table described (format text not null, path text not null, num_bytes integer, mtime_ns integer,
  num_members integer);
"""
_INSERT: Final = "insert into members values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_BY_NAME: Final = (
    "select offset, stored_bytes, num_bytes, method, crc, problem from members "
    "where folder = ? and stem = ? and name = ?"
)
_BY_STEM: Final = "select distinct name from members where folder = ? and stem = ?"


class ArchiveIndex:
    """The members of one archive."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path

    def find_by_name(self, location: str) -> list[ArchiveMember]:
        """The members at a location: none, one, or several under one name."""
        folder, name = split_path(location)
        rows = self._query(_BY_NAME, folder, posixpath.splitext(name)[0], name)
        return [ArchiveMember(location, *row) for row in rows]

    def find_by_stem(self, folder: str, stem: str) -> list[str]:
        """Names in a folder that have a stem."""
        return [str(name) for (name,) in self._query(_BY_STEM, folder, stem)]

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def _query(self, text: str, *values: str) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(text, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise CorruptError(f"{self._path} is damaged: {error}; delete it and run again") from error


def open_index(
    archive: str, state: FileState, list_members: Callable[[], Iterable[ArchiveMember]]
) -> ArchiveIndex:
    """The index of an archive in this state; made first where this machine has none.

    Args:
        archive: its real path.
        state: as the file was when it was opened.
        list_members: lists them all; called when the index has to be made.
    """
    path = _index_folder() / f"{sha256_hex(archive.encode('utf-8', 'surrogateescape'))[:SHORT]}.sqlite"
    described = (_FORMAT, os.fsencode(archive).hex(), state.num_bytes, state.mtime_ns)
    index = _try_open(path, described)
    if index is None:
        with _locked(path.with_suffix(".lock")):
            index = _try_open(path, described)
            if index is None:
                _make_index(path, described, list_members())
                index = _try_open(path, described)
    if index is None:
        raise CorruptError(f"{path} cannot be read although it was just written; check the disk")
    return index


def _index_folder() -> Path:
    """The folder of this user's indexes.

    Raises:
        ConfigError: when somebody else could write there.
    """
    folder = Path(tempfile.gettempdir()) / f"onetoken-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode) or status.st_mode & 0o022:
        raise ConfigError(f"{folder} is not this user's alone; remove it, or set TMPDIR to another folder")
    return folder


def _try_open(path: Path, described: tuple[str, str, int, int]) -> ArchiveIndex | None:
    if not path.is_file():
        return None
    try:
        connection = sqlite3.connect(
            f"file:{path}?mode=ro&immutable=1", uri=True, isolation_level=None, check_same_thread=False
        )
    except sqlite3.DatabaseError:
        return None
    try:
        found = connection.execute("select format, path, num_bytes, mtime_ns from described").fetchall()
    except sqlite3.DatabaseError:
        found = []
    if found == [described]:
        return ArchiveIndex(connection, path)
    connection.close()
    return None


def _make_index(path: Path, described: tuple[str, str, int, int], members: Iterable[ArchiveMember]) -> None:
    descriptor, text = tempfile.mkstemp(prefix=".writing-", dir=path.parent)
    temporary = Path(text)
    try:
        with closing(sqlite3.connect(temporary, isolation_level=None)) as connection:
            connection.executescript("pragma journal_mode = off; pragma synchronous = off;" + _SCHEMA)
            connection.execute("begin")
            cursor = connection.executemany(
                _INSERT, (_row_of(position, member) for position, member in enumerate(members))
            )
            connection.execute("insert into described values (?, ?, ?, ?, ?)", (*described, cursor.rowcount))
            connection.execute("commit")
        os.fsync(descriptor)
        temporary.replace(path)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            raise no_space(path.parent, OR_ELSEWHERE) from error
        raise
    finally:
        os.close(descriptor)
        temporary.unlink(missing_ok=True)


def _row_of(position: int, member: ArchiveMember) -> tuple[object, ...]:
    folder, name = split_path(member.name)
    return (folder, name, posixpath.splitext(name)[0], position, *member[1:])


@contextmanager
def _locked(path: Path) -> Generator[None]:
    with path.open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
