"""One side of a comparison in a process of its own, so that no side finds the heap of another."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from jobs.bench.tree_memory import count_tree_bytes
from schemas.errors import WorkError

WATCH_EVERY_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class FreshRun:
    """What a process said, and how much memory it and its children took at most."""

    answer: bytes
    peak_bytes: int = 0
    """0 where nobody watched."""


def run_fresh(module: str, arguments: Sequence[str], watches_memory: bool = False) -> FreshRun:
    """Run a module as a program and wait for what it writes to stdout.

    Raises:
        WorkError: when it fails, with what it said.
    """
    command = [sys.executable, "-P", "-m", module, *arguments]
    peak_bytes = 0
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as complaint:
        with subprocess.Popen(command, stdout=answer, stderr=complaint) as process:  # noqa: S603 - our program
            while watches_memory and process.poll() is None:
                peak_bytes = max(peak_bytes, count_tree_bytes(process.pid))
                time.sleep(WATCH_EVERY_S)
        answer.seek(0)
        complaint.seek(0)
        if process.returncode:
            said = complaint.read().decode(errors="replace").strip()
            raise WorkError(f"{module} {' '.join(arguments)} ended with {process.returncode}: {said}")
        return FreshRun(answer.read(), peak_bytes)
