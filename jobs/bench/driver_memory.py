"""A program: plans and dispatches so many simulated shards, and tells what the driver's memory came to.

    python -m jobs.bench.driver_memory 100000   ->  {"num_shards":99632,"plan_s":2.1,"run_s":25.0,...}

Shards come from the product's planner and go by its dispatcher to two child processes, which make up what
writing a shard would have told (`pretended_shards`). The peak is the kernel's, of this process without its
children. What is left out: the manifest, which names every shard and grows with them.
"""

import sys
import time
from typing import Final

import msgspec

from infra.machine import read_peak_bytes
from jobs.bench.pretended_shards import PretendingWorker, plan_shards
from pipelines.engine import run_as_finished
from pipelines.process_engine import ProcessesEngine

NUM_WORKERS: Final = 2


class DriverMemory(msgspec.Struct, frozen=True):
    """What a run came to."""

    num_shards: int
    plan_s: float
    run_s: float
    peak_bytes: int


def measure_driver(num_shards: int) -> DriverMemory:
    """Plan, dispatch, keep nothing."""
    start_s = time.perf_counter()
    plan = plan_shards(num_shards)
    planned_s = time.perf_counter()
    with ProcessesEngine(NUM_WORKERS) as engine:
        num_done = sum(1 for _ in run_as_finished(engine, PretendingWorker(), plan, "pretend"))
    end_s = time.perf_counter()
    return DriverMemory(num_done, planned_s - start_s, end_s - planned_s, read_peak_bytes())


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(measure_driver(int(sys.argv[1]))))
