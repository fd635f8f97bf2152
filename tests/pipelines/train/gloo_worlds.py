"""Trains a tiny model with several processes: `python gloo_worlds.py JOBS.json`, run by a test.

Libraries are loaded once; then the processes of one job after the other are forked, and meet over gloo.
"""

import json
import os
import sys
import traceback
from dataclasses import replace
from pathlib import Path

import torch
from tiny_training import IDENTITY, WIDTH, CountedSteps, color_example, tiny_config

from operators.batch import MediumFeatures, TrainingExample
from pipelines.train.assembly import assemble, restore
from pipelines.train.checkpoint import latest_checkpoint, open_checkpoint
from pipelines.train.loop import TrainingRun, train
from pipelines.train.metrics import StepReport
from pipelines.train.processes import Processes, join_processes
from schemas.errors import DivergedError, MismatchError


class SharedSteps(CountedSteps):
    """The micro-batches of one of several processes; some are empty where they do not come out even."""

    def __init__(
        self, processes: Processes, batch: int, micro_batch: int, text_only: str, poisoned: list[int]
    ) -> None:
        super().__init__(batch, micro_batch)
        self.processes, self.text_only, self.poisoned = processes, text_only, poisoned

    def __iter__(self):
        rank, world_size = self.processes.rank, self.processes.world_size
        for units in super().__iter__():
            num_rounds = -(-len(units) // world_size)
            mine = units[rank::world_size]
            yield mine + [[] for _ in range(num_rounds - len(mine))]

    def example(self, index: int) -> TrainingExample:
        """`second`: every other micro-batch has no picture, and with two processes one process has none;
        `steps`: the first of three steps has pictures, and the two after it have none.
        """
        is_text = {
            "none": False,
            "some": index % 7 == 6,
            "all": True,
            "second": index // self.micro_batch % 2 == 1,
            "steps": index // self.batch % 3 > 0,
        }
        example = color_example(index, frames=1 + index % 3, text_only=is_text[self.text_only])
        if index not in self.poisoned:
            return example
        return replace(example, media=(MediumFeatures(example.media[0].patches * float("nan")),))


def run_rank(job: dict, rank: int, port: int) -> None:
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(job["world"]), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    torch.set_num_threads(1)
    out = Path(job["out"], "empty") if rank in job["apart"] else Path(job["out"])
    out.mkdir(parents=True, exist_ok=True)
    config = tiny_config(Path(job["llm"]), out, job["stage"], **job["sections"])
    manifest = "n" * 64 if rank in job["newer"] else IDENTITY.manifest_sha256
    reports: list[StepReport] = []
    with join_processes("cpu") as processes:
        found = latest_checkpoint(out) if job["resume"] else None
        checkpoint = open_checkpoint(found) if found else None
        assembly = restore(checkpoint, to_train=True) if checkpoint else assemble(config, WIDTH)
        batch, micro_batch = config.data.batch, config.data.micro_batch
        source = SharedSteps(processes, batch, micro_batch, job["text_only"], job["poisoned"])
        run = TrainingRun(
            assembly=assembly,
            config=config,
            source=source,
            identity=IDENTITY.model_copy(update={"manifest_sha256": manifest}),
            num_steps=job["steps"],
            processes=processes,
        )
        try:
            train(run, checkpoint, reports.append)
        except (DivergedError, MismatchError) as error:
            Path(job["out"], f"said-{rank}.json").write_text(json.dumps(str(error)))
            return
    values = [[report.loss, report.grad_norm, report.num_labels, report.num_examples] for report in reports]
    Path(job["out"], f"reports-{job['world']}-{rank}.json").write_text(json.dumps(values))


def run_job(job: dict, port: int) -> int:
    children = []
    for rank in range(job["world"]):
        child = os.fork()
        if child == 0:
            try:
                run_rank(job, rank, port)
                os._exit(0)
            except BaseException:  # noqa: BLE001 - told, and the process ends
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(1)
        children.append(child)
    return max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)


if __name__ == "__main__":
    jobs = json.loads(Path(sys.argv[1]).read_text())
    first_port = int(sys.argv[2])
    sys.exit(max(abs(run_job(job, first_port + index)) for index, job in enumerate(jobs)))
