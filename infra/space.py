"""A full disk, told so that somebody can do something about it: which folder, on which machine, what then.

The system says "no space left on device" and, for most writes, nothing of where. Whoever writes names the
folder here; quotas count as full disks. Nothing is torn by one: objects are written under temporary names.
"""

import contextlib
import errno
import socket
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import IO, Final

from schemas.errors import NoSpaceError

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
OR_ELSEWHERE: Final = ", or set TMPDIR to a folder with more"


@contextlib.contextmanager
def named_full_disk(folder: str | Path, or_else: str = "") -> Generator[None]:
    """Name the folder that is written to inside.

    Raises:
        NoSpaceError: when there is no room for it.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise no_space(folder, or_else) from error


def no_space(folder: str | Path, or_else: str = "") -> NoSpaceError:
    """The error that names a full folder, and what to do."""
    return NoSpaceError(
        f"no room is left in {folder} on {socket.gethostname()}; make some{or_else}, then run the same "
        "command again: what is committed stays"
    )


@contextlib.contextmanager
def temporary_file() -> Generator[IO[bytes]]:
    """A file without a name in the system's temporary folder, gone with the block.

    Raises:
        NoSpaceError: when there is no room for what is written to it.
    """
    with named_full_disk(tempfile.gettempdir(), OR_ELSEWHERE), tempfile.TemporaryFile() as file:
        yield file
