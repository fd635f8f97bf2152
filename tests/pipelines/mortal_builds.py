"""Serial builds that are killed at a chosen step; a program that keeps its libraries loaded for the next one.

Each order, a line of JSON on standard input, is a build in a process of its own, forked from this one, which
has imported everything and run nothing. A step is what changes the file system below the corpus: a file
opened for writing, flushed, renamed, linked or removed, a folder made or removed. The process kills itself
with SIGKILL before step `die_at`, or is killed from here after `die_after_s`. The answer, a line of JSON,
tells how it ended, how many steps it took, the stage it was in and the shards that it made.
"""

import importlib
import json
import os
import signal
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

WRITERS = ("pipelines.shard.write", "pipelines.featurize.write")
LOADED = ("pipelines.ingest.flow", "pipelines.shard.flow", "pipelines.featurize.flow", "pandas")
"""Pyarrow loads pandas, where it is, at its first table."""
EVENTS = ("open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir")
LIMIT_S = 120
POLL_S = 0.001


@dataclass
class Order:
    """One build."""

    recipe: str
    corpus: str
    notes: str
    """A file that the build appends to."""
    die_at: int = 0
    die_after_s: float = 0.0


@dataclass
class Ending:
    """What became of it."""

    was_killed: bool
    num_steps: int = 0
    stage: str = "start"
    last_event: str = ""
    shards: list[str] = field(default_factory=list[str])
    """Those that it made, in order."""
    seconds: float = 0.0


@dataclass
class Steps:
    """Counts what is done to the files of a corpus, and dies before one of it."""

    corpus: str
    die_at: int
    descriptor: int
    count: int = 0

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in EVENTS or not isinstance(arguments[0], str) or not self.is_inside(arguments[0]):
            return
        if event != "open" or arguments[2] & (os.O_WRONLY | os.O_RDWR):
            self.take(event)

    def is_inside(self, path: str) -> bool:
        return path == self.corpus or path.startswith(f"{self.corpus}/")

    def take(self, event: str) -> None:
        self.count += 1
        os.write(self.descriptor, f"step {event}\n".encode())
        if self.count == self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)


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
        watch_puts(module, name.split(".")[1], steps)
    sys.addaudithook(steps.hear)


def watch_puts(module: Any, stage: str, steps: Steps) -> None:
    """Every shard is one call of `put_file`, when it is made and is about to be stored."""
    put_file = module.put_file

    def put(storage: Any, folder: str, name: str, *rest: Any) -> Any:
        os.write(steps.descriptor, f"shard {stage}-{name}\n".encode())
        return put_file(storage, folder, name, *rest)

    module.put_file = put


def build_all(order: Order) -> None:
    """All stages, in this process."""
    import yaml

    from infra.storage import LocalStorage
    from pipelines.engine import SerialEngine
    from pipelines.featurize.flow import featurize
    from pipelines.ingest.flow import ingest
    from pipelines.shard.flow import shard
    from schemas.configuration import build
    from schemas.recipe import Recipe

    descriptor = os.open(order.notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(stage: str, done: int, total: int) -> None:
        os.write(descriptor, f"stage {stage}\n".encode())

    recipe = build(yaml.safe_load(Path(order.recipe).read_text()), Recipe, "tiny")
    watch(Steps(order.corpus, order.die_at, descriptor))
    storage, engine = LocalStorage(Path(order.corpus)), SerialEngine()
    ingest(recipe, storage, engine, note)
    shard(recipe, storage, engine, note)
    featurize(recipe, storage, engine, note)


def serve(order: Order) -> Ending:
    """Run a build to its end."""
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        try:
            build_all(order)
            os._exit(0)
        finally:
            os._exit(1)
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        elapsed_s = time.monotonic() - began
        if ended:
            break
        if 0 < order.die_after_s < elapsed_s or elapsed_s > LIMIT_S:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            break
        time.sleep(POLL_S)
    if status not in (0, signal.SIGKILL) or elapsed_s > LIMIT_S:
        raise SystemExit(f"a build ended with status {status} after {elapsed_s:.0f} s")
    return read_ending(order, was_killed=status != 0, seconds=elapsed_s)


def read_ending(order: Order, was_killed: bool, seconds: float) -> Ending:
    ending = Ending(was_killed, seconds=round(seconds, 3))
    notes = Path(order.notes)
    for line in notes.read_text().splitlines() if notes.exists() else []:
        kind, _, value = line.partition(" ")
        if kind == "step":
            ending.num_steps += 1
            ending.last_event = value
        elif kind == "stage":
            ending.stage = value
        elif kind == "shard":
            ending.shards.append(value)
    return ending


def main() -> None:
    """Serve orders until there are no more."""
    import torch
    from PIL import Image

    torch.set_num_threads(1)
    Image.init()
    for name in LOADED:
        importlib.import_module(name)
    for line in sys.stdin:
        ending = serve(Order(**json.loads(line)))
        sys.stdout.write(json.dumps(asdict(ending)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
