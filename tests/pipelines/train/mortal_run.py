"""A tiny training that is killed again and again, and goes on each time from its last checkpoint.

Every life is a process of its own, forked from one that has imported everything and started no thread. A
death is a word and a number: `step 5` kills the process, as no handler can prevent, when step 5 was taken and
told; `sync 3` when the third file of a checkpoint is about to be made lasting, in the thread that writes it.
The last life is not disturbed.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from tiny_training import IDENTITY, CountedSteps, tiny_config, tiny_run

from pipelines.train.assembly import restore
from pipelines.train.checkpoint import latest_checkpoint, open_checkpoint
from pipelines.train.loop import TrainingRun, train
from pipelines.train.metrics import StepReport
from schemas.training import TrainConfig


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_sync(number: int) -> None:
    sync, left = os.fsync, [number]

    def count(descriptor: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            die()
        sync(descriptor)

    os.fsync = count


def go_on(config: TrainConfig, kind: str, number: int) -> None:
    """One life: from the last checkpoint, or the beginning, to the death or the end."""
    if kind == "sync":
        die_at_sync(number)

    def tell(report: StepReport) -> None:
        if kind == "step" and report.step == number:
            die()

    folder = latest_checkpoint(Path(config.out))
    if folder is None:
        train(tiny_run(config), None, tell)
        return
    checkpoint = open_checkpoint(folder)
    run = TrainingRun(
        assembly=restore(checkpoint, to_train=True),
        config=config,
        source=CountedSteps(config.data.batch, config.data.micro_batch),
        identity=IDENTITY,
        num_steps=config.run.steps or 1,
    )
    train(run, checkpoint, tell)


def main() -> None:
    """Arguments: the language model, `out`, sections of the configuration, and the deaths, both as JSON.

    Prints how each life ended: what `waitpid` tells, and the checkpoint that was left.
    """
    llm, out, sections, deaths = sys.argv[1:]
    torch.set_num_threads(1)
    config = tiny_config(Path(llm), Path(out), **json.loads(sections))
    ends: list[tuple[int, str]] = []
    for kind, number in [*json.loads(deaths), ("never", 0)]:
        child = os.fork()
        if child == 0:
            try:
                go_on(config, kind, number)
                os._exit(0)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        folder = latest_checkpoint(Path(out))
        ends.append((os.waitstatus_to_exitcode(status), folder.name if folder else ""))
    sys.stdout.write(json.dumps(ends))


if __name__ == "__main__":
    main()
