"""A peer in its own environment, read from in turn with the sides of this one.

Its process stays while turns are taken: what it starts with, and writing the items its way, is not measured.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, cast

from schemas.errors import WorkError

PEERS: Final = ("litdata", "mds")
PROGRAM: Final = Path(__file__).with_name("theirs.py")
PYTHON: Final = Path(__file__).parents[3] / ".venv-peers" / "bin" / "python"
"""Made as the README of this folder tells."""


class Peer:
    """A process that reads when it is told to."""

    def __init__(self, name: str, process: subprocess.Popen[str]) -> None:
        self._name = name
        self._process = process

    def read(self) -> float:
        """All items into memory; seconds of CPU time.

        Raises:
            WorkError: when the process has ended.
        """
        return float(self._ask("read")["cpu_s"])

    def digest(self) -> str:
        """The sha256 of all items.

        Raises:
            WorkError: when the process has ended.
        """
        return str(self._ask("digest")["sha256"])

    def _ask(self, command: str) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise WorkError(f"{self._name} was started without pipes")
        try:
            stdin.write(f"{command}\n")
            stdin.flush()
        except BrokenPipeError:
            pass
        line = stdout.readline()
        if not line:
            raise WorkError(f"{self._name} ended instead of answering; is its environment whole?")
        return cast("dict[str, Any]", json.loads(line))


@contextmanager
def opened_peer(
    name: str, tars: Sequence[Path], folder: Path, items_per_batch: int, program: Sequence[str]
) -> Generator[Peer]:
    """A peer over the items of these tars, written to the folder its way; gone afterwards."""
    folder.mkdir(parents=True)
    listed = folder.with_suffix(".tars")
    listed.write_text("\n".join(map(str, tars)), encoding="utf-8")
    command = [*program, name, str(listed), str(folder), str(items_per_batch)]
    with subprocess.Popen(  # noqa: S603 - the program beside this one
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sys.stderr, text=True
    ) as process:
        try:
            yield Peer(name, process)
        finally:
            process.kill()


@contextmanager
def opened_peers(tars: Sequence[Path], items_per_batch: int, digest: str) -> Generator[dict[str, Peer]]:
    """All peers, when there is an environment for them.

    Raises:
        WorkError: when one gives other bytes.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="onetoken-peers-")))
        peers: dict[str, Peer] = {}
        for name in PEERS if PYTHON.exists() else ():
            program = [str(PYTHON), "-P", str(PROGRAM)]
            peer = stack.enter_context(opened_peer(name, tars, folder / name, items_per_batch, program))
            if peer.digest() != digest:
                raise WorkError(f"{name} gave other items; nothing was compared")
            peers[name] = peer
        yield peers
