"""A program that goes on in the background, known by a file that holds its process id.

Whoever comes later, another process too, finds it and stops it by that file. The system uses a process id
again one day, so the moment of the start stands beside it and must be the same: no stranger is ever stopped,
and no other child of this process is waited for.

A tied daemon is killed by the system when the process that started it ends, however it ends: tests leave
nothing behind. Left out: restarting what dies. Linux only (`/proc`, `setpriv`).
"""

import contextlib
import os
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from schemas.errors import NotFoundError

STOP_LIMIT_S: Final = 15.0
PAUSE_S: Final = 0.05
_TIED: Final = ("/usr/bin/setpriv", "--pdeathsig", "KILL", "--")


@dataclass(frozen=True, slots=True)
class Daemon:
    """One program of a folder; its name tells it from the others there."""

    folder: Path
    name: str
    command: tuple[str, ...]
    """With the whole path of the program."""

    @property
    def output(self) -> Path:
        """What it writes to its standard output and error."""
        return self.folder / f"{self.name}.out"

    def find(self) -> int | None:
        """The process id, while it runs."""
        try:
            number, moment = self._pid_file.read_text().split()
        except (FileNotFoundError, ValueError):
            return None
        process = int(number)
        seen = _look_at(process)
        if seen is None or seen.moment != moment:
            return None
        if seen.has_ended:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process, os.WNOHANG)
            return None
        return process

    def start(self, is_tied: bool) -> None:
        """Run it unless it runs; it inherits nothing but the search path."""
        if self.find() is not None:
            return
        command = (*_TIED, *self.command) if is_tied else self.command
        into = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        process = os.posix_spawn(
            command[0],
            command,
            program_environment(),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(self.output), into, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )
        seen = _look_at(process)
        self._pid_file.write_text(f"{process} {seen.moment if seen else None}")

    def stop(self) -> None:
        """End it in order, by force when that takes too long."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            process = self.find()
            if process is None:
                break
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)
            deadline = time.monotonic() + STOP_LIMIT_S
            while self.find() is not None and time.monotonic() < deadline:
                time.sleep(PAUSE_S)
        self._pid_file.unlink(missing_ok=True)

    def kill(self) -> None:
        """End it as no handler can prevent, and wait until it is gone."""
        deadline = time.monotonic() + STOP_LIMIT_S
        while (process := self.find()) is not None and time.monotonic() < deadline:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
            time.sleep(PAUSE_S)
        self._pid_file.unlink(missing_ok=True)

    @property
    def _pid_file(self) -> Path:
        return self.folder / f"{self.name}.pid"


class _Seen(NamedTuple):
    moment: str
    """Of the start, in clock ticks since the machine's."""
    has_ended: bool
    """It waits to be taken note of by its parent."""


def _look_at(process: int) -> _Seen | None:
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *facts = text.rpartition(")")[2].split()  # the name before may hold anything
    num_threads = int(facts[16])  # the first may be gone and others still hold ports and files
    return _Seen(facts[18], state in "ZX" and num_threads <= 1)


def program_path(name: str) -> str:
    """The whole path of a program of the system.

    Raises:
        NotFoundError: when it is not installed.
    """
    found = shutil.which(name)
    if found is None:
        raise NotFoundError(f"the program {name} is not installed here")
    return found


def program_environment() -> dict[str, str]:
    """What a program of the system needs of this process' environment: no settings, no credentials."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
