"""`onetoken` on Ray with shards that take a while and leave notes; a program for the tests of lost machines.

A note is an empty file `begun+UNIT+MACHINE+NUMBER`, left when a shard is about to be written, or `ended+...`,
left when its unit is done, in a folder that all machines see. What begins on the machine that is `held` waits
for a file `go-on` there, so that a test decides who is first.
"""

import importlib
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines import ray_engine
from pipelines.engine import DATA_WORKER, Divisible, Resources

HOLD_LIMIT_S = 180
POLL_S = 0.02
GO_ON = "go-on"
WRITERS = {"pipelines.shard.write": "shard", "pipelines.featurize.write": "features"}


@dataclass(frozen=True)
class Notes:
    """What workers write down, and what they are told."""

    folder: Path
    pause_s: float
    held: str = ""

    def write(self, moment: str, unit: str, number: str) -> None:
        (self.folder / f"{moment}+{unit}+{socket.gethostname()}+{number}").touch()

    def wait(self) -> None:
        end = time.monotonic() + HOLD_LIMIT_S
        time.sleep(self.pause_s)
        while self.held == socket.gethostname() and not (self.folder / GO_ON).exists():
            assert time.monotonic() < end
            time.sleep(POLL_S)


@dataclass
class SlowHand:
    """Does units of one worker; the writing of a shard is watched and slowed."""

    work: Callable[[Any], Any]
    notes: Notes
    leaf: str = ""
    begun: list[tuple[str, str]] = field(default_factory=list)

    def watch(self, module_name: str, stage: str) -> None:
        """Stand in for `write_shard` as a module knows it."""
        module = importlib.import_module(module_name)
        write_shard = module.write_shard

        def write_slowly(*arguments: Any) -> Any:
            self.begun.append((f"{stage}-{self.leaf}", uuid.uuid4().hex[:8]))
            self.notes.write("begun", *self.begun[-1])
            self.notes.wait()
            return write_shard(*arguments)

        module.write_shard = write_slowly

    def do(self, unit: Any) -> Any:
        self.leaf = getattr(getattr(unit, "leaf", unit), "name", "")
        result = self.work(unit)
        while self.begun:
            self.notes.write("ended", *self.begun.pop())
        return result


@dataclass(frozen=True)
class Slowed:
    """A worker that takes its time."""

    spec: Any
    notes: Notes

    def build(self) -> Callable[[Any], Any]:
        hand = SlowHand(self.spec.build(), self.notes)
        for module, stage in WRITERS.items():
            hand.watch(module, stage)
        return hand.do


@dataclass(frozen=True)
class SlowedDivisible(Slowed):
    """The same, for units that can be divided."""

    def divide(self, unit: Any) -> Sequence[Any]:
        return self.spec.divide(unit)

    def exclude(self, unit: Any, killers: Sequence[Any]) -> Any:
        return self.spec.exclude(unit, killers)


class SlowedEngine(ray_engine.RayEngine):
    """Ray, with every worker slowed."""

    notes: Notes

    def run(
        self, spec: Any, units: Sequence[Any], resources: Resources = DATA_WORKER, stage: str = ""
    ) -> Iterator[tuple[int, Any]]:
        kind = SlowedDivisible if isinstance(spec, Divisible) else Slowed
        yield from super().run(kind(spec, self.notes), units, resources, stage)


def main() -> None:
    """Arguments: folder for notes, pause in seconds, machine to hold or nothing, and those of `onetoken`."""
    import slowed_builds
    from ray import cloudpickle

    from jobs.cli import main as run_command

    folder, pause_s, held, *arguments = sys.argv[1:]
    cloudpickle.register_pickle_by_value(slowed_builds)
    slowed_builds.SlowedEngine.notes = slowed_builds.Notes(Path(folder), float(pause_s), held)
    ray_engine.RayEngine = slowed_builds.SlowedEngine
    run_command(arguments)
