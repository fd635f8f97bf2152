"""A decoding process from its owner's side: started, asked, timed, ended.

The encoded medium is handed over in an unnamed file in memory, the answers come over a socket whose timeouts
are the deadline. Standard error is kept in another file, for its last line when the process dies.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Final

import pipelines
from operators.render import RenderedViews
from pipelines.decode.wire import (
    Answer,
    Opened,
    Ready,
    Request,
    Setup,
    Views,
    receive_answer,
    receive_pixels,
    send_message,
)
from schemas.errors import WorkError

DYING_S: Final = 5.0
"""How long a process that hung up may take to end, before it is killed and its status lost."""

_START_LIMIT_S: Final = 120.0
_ROOT: Final = Path(pipelines.__path__[0]).parent


class DecodeProcess:
    """A child that runs `pipelines.decode.child`, with the channel and the file that it shares."""

    def __init__(self, setup: Setup, module: str) -> None:
        """Start it and wait until it is ready.

        Raises:
            WorkError: when it does not start.
        """
        self.num_files = 0
        """How many media it was given."""
        self._owner = os.getpid()
        self._medium = _open_unnamed_file()
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `stop`
        self._channel, theirs = socket.socketpair()
        numbers = (theirs.fileno(), self._medium.fileno())
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own module, by our own interpreter
                [sys.executable, "-m", module, *map(str, numbers)],
                cwd=_ROOT,
                pass_fds=numbers,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
            )
        try:
            self._channel.settimeout(_START_LIMIT_S)
            send_message(self._channel, setup)
            is_ready = isinstance(receive_answer(self._channel), Ready)
        except (EOFError, OSError) as error:
            raise WorkError(f"the decoding process does not start; it {self.stop(DYING_S)}") from error
        if not is_ready:
            raise WorkError(f"{module} is no decoding process; it {self.stop(DYING_S)}")

    @property
    def is_foreign(self) -> bool:
        """Whether this process got the child by being forked."""
        return os.getpid() != self._owner

    def ask(
        self, request: Request, data: bytes, started_s: float, allowed_s: float
    ) -> tuple[Answer, list[RenderedViews]]:
        """The final answer, and the views that came before it.

        Raises:
            TimeoutError: it takes longer than allowed.
            EOFError, ConnectionError: the process is gone.
        """
        self.num_files += 1
        self._medium.truncate(0)
        _write_at_start(self._medium.fileno(), data)
        groups: list[RenderedViews] = []
        self._set_timeout(started_s + allowed_s)
        send_message(self._channel, request)
        while True:
            self._set_timeout(started_s + allowed_s)
            answer = receive_answer(self._channel)
            if isinstance(answer, Opened):
                allowed_s = answer.allowed_s
            elif isinstance(answer, Views):
                groups.append(RenderedViews(receive_pixels(self._channel, answer.shape), answer.time_s))
            else:
                self._medium.truncate(0)
                return answer, groups

    def _set_timeout(self, deadline_s: float) -> None:
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._channel.settimeout(left_s)

    def kill(self) -> None:
        """Make it hang up, which whoever waits for its answer notices; `stop` is still to be called."""
        if not self.is_foreign:
            self._process.kill()

    def stop(self, grace_s: float = 0.0) -> str:
        """End it, unless it ends by itself within the grace, and tell how it ended."""
        if not self.is_foreign:
            try:
                self._process.wait(grace_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        said = _read_last_line(self._errors)
        for file in (self._channel, self._medium, self._errors):
            file.close()
        return _describe_end(self._process.returncode, said)


def _open_unnamed_file() -> IO[bytes]:
    """A file in memory where the system has such; nobody else finds it, and it goes with its last holder."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("onetoken-medium"), "wb+", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def _write_at_start(number: int, data: bytes) -> None:
    """At its place and not at the offset, which the processes share."""
    view, offset = memoryview(data), 0
    while offset < len(view):
        offset += os.pwrite(number, view[offset:], offset)


def _read_last_line(file: IO[bytes]) -> str:
    num_bytes = file.seek(0, os.SEEK_END)
    file.seek(max(0, num_bytes - 2000))
    lines = file.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


def _describe_end(status: int | None, said: str) -> str:
    if status is None:
        return "belongs to another process"
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}" + (f" ({said})" if said else "")
    return f"ended with status {status}" + (f": {said}" if said else "")
