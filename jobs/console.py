"""What a command says: progress and messages on stderr, results on stdout, as words or as JSON.

On a terminal progress is a bar; elsewhere one line per stage now and then, so that logs stay readable.
"""

import json
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

LOG_EVERY_S = 10.0


class Reporter:
    """Shows progress while it is entered; a `pipelines.engine.Progress`."""

    def __init__(self, log: TextIO | None = None) -> None:
        """Speak to the terminal, or into a log."""
        self.console = Console(stderr=log is None, file=log, highlight=False)
        self._bars = Progress(
            TextColumn("{task.description:<24}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}"),
            console=self.console,
        )
        self._tasks: dict[str, TaskID] = {}
        self._logged: dict[str, float] = {}

    def __enter__(self) -> "Reporter":
        if self.console.is_terminal:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self._bars.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that `done` of `total` units of a stage are finished."""
        self.show(stage, done, total, "")

    def show(self, stage: str, done: int, total: int, detail: str) -> None:
        """The same, with a few words on what was seen last."""
        if self.console.is_terminal:
            if stage not in self._tasks:
                self._tasks[stage] = self._bars.add_task(stage, total=total, detail=detail)
            self._bars.update(self._tasks[stage], completed=done, total=total, detail=detail)
            return
        now = time.monotonic()
        if done == total or now - self._logged.get(stage, -LOG_EVERY_S) >= LOG_EVERY_S:
            self._logged[stage] = now
            self.say(f"{stage}: {done} of {total}  {detail}".rstrip())

    def say(self, message: str) -> None:
        """One line to the person at the terminal."""
        self.console.print(message, markup=False, soft_wrap=True)


def print_result(lines: list[str], as_json: bool, values: Mapping[str, object]) -> None:
    """The end of a command: a few lines, or the same as one JSON object."""
    text = json.dumps(values, sort_keys=True) if as_json else "\n".join(lines)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def say_error(message: str) -> None:
    """One error, on stderr."""
    Console(stderr=True, highlight=False).print(
        f"error: {message}", style="red", markup=False, soft_wrap=True
    )
