"""`onetoken train --engine ray` with a worker that waits for its death; for the tests of lost workers.

Every worker leaves an empty file `began+STEP+WORLD+RANK` when it takes its first step. The first time that
step `HELD_STEP` is reached and a checkpoint lies on the disk, the last worker leaves `held+HOST+PROCESS` and
goes no further: the others wait for it in an exchange of gradients until the test has killed it.
"""

import importlib
import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from infra import ray_train
from jobs import training_on_ray
from jobs.cli import main as run_command

HELD_STEP = 5
HOLD_LIMIT_S = 180
POLL_S = 0.02
PATIENCE_S = 15.0
"""Waited for a machine that does not come back; the head misses it after three seconds."""


@dataclass(frozen=True)
class MortalWorker:
    """What a worker does, watched."""

    work: Callable[[dict[str, Any]], None]
    notes: Path

    def __call__(self, arguments: dict[str, Any]) -> None:
        loop: Any = importlib.import_module("pipelines.train.loop")
        take_step, out, begun = loop._take_step, Path(arguments["config"]["out"]), []

        def take_watched(run: Any, optimizer: Any, steps: Any, step: int) -> Any:
            processes = run.processes
            if not begun:
                begun.append(step)
                (self.notes / f"began+{step}+{processes.world_size}+{processes.rank}").touch()
            is_last = processes.rank == processes.world_size - 1
            if step == HELD_STEP and is_last and not any(self.notes.glob("held+*")):
                self.hold(out)
            return take_step(run, optimizer, steps, step)

        loop._take_step = take_watched
        self.work(arguments)

    def hold(self, out: Path) -> None:
        """Wait for a checkpoint, say so, and wait for the end."""
        deadline = time.monotonic() + HOLD_LIMIT_S
        while not any(out.glob("step-*")):
            assert time.monotonic() < deadline
            time.sleep(POLL_S)
        (self.notes / f"held+{socket.gethostname()}+{os.getpid()}").touch()
        time.sleep(HOLD_LIMIT_S)
        raise AssertionError("nobody killed this worker")


def run_watched(
    notes: Path, work: Callable[[dict[str, Any]], None], arguments: dict[str, Any], plan: Any, **told: Any
) -> None:
    """`run_on_workers`, with workers that are watched; Ray is connected by now."""
    import mortal_training
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(mortal_training)
    hasty = replace(plan, patience_s=PATIENCE_S)
    ray_train.run_on_workers(mortal_training.MortalWorker(work, notes), arguments, hasty, **told)


def main() -> None:
    """Arguments: folder for notes, and those of `onetoken`."""
    notes, *arguments = sys.argv[1:]
    training_on_ray.run_on_workers = partial(run_watched, Path(notes))
    run_command(arguments)
