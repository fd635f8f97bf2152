"""Trains with two processes: `python two_ranks.py CONFIG.yaml PORT`, run by a test; each tells how it ended.

Libraries are loaded once; then the processes are forked, and meet over gloo.
"""

import json
import os
import sys
from pathlib import Path

from jobs.console import Reporter
from jobs.training import run_training
from schemas.configuration import parse_yaml
from schemas.errors import PipelineError
from schemas.training import TrainConfig

NUM_RANKS = 2


def train_as(rank: int, config: TrainConfig, port: str) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(NUM_RANKS), MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    said = ""
    try:
        with Reporter() as reporter:
            run_training(config, reporter, resume=False)
    except PipelineError as error:
        said = str(error)
    Path(config.out).mkdir(parents=True, exist_ok=True)
    Path(config.out, f"said-{rank}.json").write_text(json.dumps(said))


def main() -> int:
    config, port = parse_yaml(Path(sys.argv[1]).read_text(), TrainConfig, sys.argv[1]), sys.argv[2]
    children = []
    for rank in range(NUM_RANKS):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                train_as(rank, config, port)
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    return max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)


if __name__ == "__main__":
    sys.exit(main())
