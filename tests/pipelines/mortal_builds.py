"""Commands that are killed at a chosen step; a program that keeps its libraries loaded for the next one.

Each order, a line of JSON on standard input, is a run of `onetoken` in a process of its own, forked from this
one, which has imported everything and run nothing; several runs of one order race. A step is what changes the
file system below the corpus: a file opened for writing, flushed, renamed, linked or removed, a folder made or
removed. The process kills itself with SIGKILL before step `die_at`, or before the first file gets its name
when so many objects are there, or is killed from here after `die_after_s`. The answer, a line of JSON, tells
how each run ended, what it said, how many steps it took, the stage it was in and the shards that it made.
"""

import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

WRITERS = ("pipelines.shard.write", "pipelines.featurize.write")
LOADED = (
    *("jobs.cli", "pipelines.ingest.flow", "pipelines.shard.flow", "pipelines.featurize.flow"),
    *("infra.s3", "transformers.models.clip.modeling_clip", "pandas"),
)
"""Pyarrow loads pandas, where it is, at its first table."""
EVENTS = ("open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir")
NAMING = ("os.rename", "os.link")
LIMIT_S = 240
POLL_S = 0.001


@dataclass
class Order:
    """A command, and when it dies."""

    words: list[str]
    corpus: str
    folder: str
    """Where runs leave what they say."""
    die_at: int = 0
    die_at_objects: int = 0
    die_after_s: float = 0.0
    num_runs: int = 1
    environment: dict[str, str] = field(default_factory=dict[str, str])
    """All that it sees."""


@dataclass
class Ending:
    """What became of a run."""

    status: int
    """As of `subprocess`."""
    told: str
    said: str
    num_steps: int = 0
    stage: str = "start"
    last_event: str = ""
    shards: list[str] = field(default_factory=list[str])
    """Those that it made, in order."""
    seconds: float = 0.0

    @property
    def was_killed(self) -> bool:
        """Whether it came to no end of its own."""
        return self.status == -signal.SIGKILL


def list_final(corpus: str | Path) -> list[str]:
    """Objects that are never replaced and no notes of a run to itself or to others, at this moment."""
    paths = [Path(root, name).relative_to(corpus) for root, _, names in os.walk(corpus) for name in names]
    return [path.as_posix() for path in paths if is_final(path.as_posix())]


def is_final(path: str) -> bool:
    """Whether an object, once there, stays as it is."""
    folder, _, name = path.rpartition("/")
    notes = folder.startswith(("scratch", "publishing"))
    return path != "corpus.json" and not notes and not name.startswith(".")


@dataclass
class Steps:
    """Counts what is done to the files of a corpus, and dies before one of it."""

    order: Order
    note: Callable[[str], None]
    count: int = 0

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in EVENTS or not isinstance(arguments[0], str) or not self.is_inside(arguments[0]):
            return
        if event != "open" or arguments[2] & (os.O_WRONLY | os.O_RDWR):
            self.take(event)

    def is_inside(self, path: str) -> bool:
        return path == self.order.corpus or path.startswith(f"{self.order.corpus}/")

    def take(self, event: str) -> None:
        self.count += 1
        self.note(f"step {event}")
        if self.count == self.order.die_at or (event in NAMING and self.has_enough()):
            os.kill(os.getpid(), signal.SIGKILL)

    def has_enough(self) -> bool:
        return 0 < self.order.die_at_objects <= len(list_final(self.order.corpus))


def watch(steps: Steps) -> None:
    """Hear of every step, and of every shard that is about to be written."""
    flush = os.fsync

    def flush_mortally(descriptor: int) -> None:
        if steps.is_inside(os.readlink(f"/proc/self/fd/{descriptor}")):
            steps.take("fsync")
        flush(descriptor)

    os.fsync = flush_mortally
    for name in WRITERS:
        module = importlib.import_module(name)
        watch_puts(module, name.split(".")[1], steps.note)
    sys.addaudithook(steps.hear)


def watch_puts(module: Any, stage: str, note: Callable[[str], None]) -> None:
    """Every shard is one call of `put_file`, when it is made and is about to be stored."""
    put_file = module.put_file

    def put(storage: Any, folder: str, name: str, *rest: Any) -> Any:
        note(f"shard {stage}-{name}")
        return put_file(storage, folder, name, *rest)

    module.put_file = put


def run_command(order: Order, folder: Path) -> None:
    """Be `onetoken`, for good."""
    from jobs import console
    from jobs.cli import main

    for number, name in ((1, "told"), (2, "said")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    notes = os.open(folder / "notes", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.environ.clear()
    os.environ.update(order.environment)
    show = console.Reporter.show

    def show_noted(self: console.Reporter, stage: str, *rest: Any) -> None:
        os.write(notes, f"stage {stage}\n".encode())
        show(self, stage, *rest)

    console.Reporter.show = show_noted
    watch(Steps(order, lambda line: os.write(notes, f"{line}\n".encode())))
    main(order.words)


def fork(order: Order, folder: Path) -> int:
    """Start a run; its process."""
    folder.mkdir(parents=True)
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        run_command(order, folder)
        status = 0
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else int(left.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def serve(order: Order) -> list[Ending]:
    """Run a command, or several at once, to the end."""
    began = time.monotonic()
    folders = [Path(order.folder, str(number)) for number in range(order.num_runs)]
    running = {fork(order, folder): folder for folder in folders}
    endings: dict[Path, Ending] = {}
    while running:
        elapsed_s = time.monotonic() - began
        is_late = elapsed_s > LIMIT_S
        for child in list(running):
            if is_late or 0 < order.die_after_s < elapsed_s:
                os.kill(child, signal.SIGKILL)
            ended, status = os.waitpid(child, 0 if is_late else os.WNOHANG)
            if ended:
                folder = running.pop(child)
                endings[folder] = read_ending(folder, os.waitstatus_to_exitcode(status), elapsed_s)
        if is_late:
            raise SystemExit(f"a command took longer than {LIMIT_S} s: {order}, {endings}")
        time.sleep(POLL_S)
    return [endings[folder] for folder in folders]


def read_ending(folder: Path, status: int, seconds: float) -> Ending:
    told, said, notes = (read_text(folder / name) for name in ("told", "said", "notes"))
    ending = Ending(status, told, said, seconds=round(seconds, 3))
    for line in notes.splitlines():
        kind, _, value = line.partition(" ")
        if kind == "step":
            ending.num_steps += 1
            ending.last_event = value
        elif kind == "stage":
            ending.stage = value
        else:
            ending.shards.append(value)
    return ending


def read_text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def main() -> None:
    """Serve orders until there are no more."""
    import torch
    from PIL import Image

    torch.set_num_threads(1)
    Image.init()
    for name in LOADED:
        importlib.import_module(name)
    from jobs.cli import build_app

    build_app()
    for line in sys.stdin:
        endings = serve(Order(**json.loads(line)))
        sys.stdout.write(json.dumps([asdict(ending) for ending in endings]) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
