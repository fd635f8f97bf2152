"""The log of a run: one JSON object a line, appended and flushed as things happen.

    {"time": "2026-03-01T12:00:00.123Z", "event": "unit_done", "stage": "shard", "unit": 7, "seconds": 1.23}

Several runs may follow each other in one file; one that is killed leaves at most a last line that is cut.
What a run has committed stands in the corpus, not here.
"""

import datetime
import json
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import get_args

from schemas.errors import ConfigError
from schemas.events import Event


class EventLog:
    """Writes events to an open file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def __call__(self, event: Event) -> None:
        """Write one line."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = {"time": now, "event": name_event(type(event)), **asdict(event)}
        self._file.write(json.dumps(line, allow_nan=False) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@contextmanager
def event_log(path: Path) -> Generator[EventLog]:
    """A log, for as long as the block runs.

    Raises:
        ConfigError: when no file can be written there.
    """
    try:
        log = EventLog(path)
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}: {error.strerror}; name a file in a folder that exists"
        ) from error
    try:
        yield log
    finally:
        log.close()


def read_events(path: Path) -> Iterator[Event]:
    """What a log tells, in its order; a last line that is cut is left out.

    Raises:
        ConfigError: the file cannot be read, or holds something else.
    """
    kinds = {name_event(kind): kind for kind in get_args(Event)}
    try:
        lines = path.read_text("utf-8").splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}; name the file that `--events` wrote") from error
    for number, line in enumerate(lines, start=1):
        if not line.endswith("\n"):
            continue
        try:
            fields = json.loads(line)
            kind = kinds[fields.pop("event")]
            del fields["time"]
            yield kind(**fields)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"{path}, line {number} is no event: {line[:60]!r}; name the file that `--events` wrote"
            ) from error


def name_event(kind: type[Event]) -> str:
    """`UnitDone` as it stands in the log: `unit_done`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()
