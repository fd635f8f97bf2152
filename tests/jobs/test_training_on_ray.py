"""`onetoken train --engine ray`, and torchrun: several processes train what one does."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_job import NUM_STEPS, SmallJob, run_onetoken, write_yaml

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("outcomes"),
    # Ray Train's own imports warn.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
TORCHRUN = Path(sys.executable).with_name("torchrun")


def write_config(job: SmallJob, out: Path, **run: object) -> Path:
    config: dict[str, Any] = yaml.safe_load(job.stage(2).read_text()) | {"out": str(out)}
    config["run"] |= run
    return write_yaml(out.with_suffix(".yaml"), config)


def losses_of(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return [line["loss"] for line in lines]


@pytest.mark.ray
def test_two_workers_train_as_one_process_and_one_goes_on(small_job: SmallJob, tmp_path: Path) -> None:
    out = tmp_path / "ray"
    path = write_config(small_job, out)
    outcome = run_onetoken("train", path, "--engine", "ray", "--workers", 2, "--json")
    assert outcome.status == 0, outcome.err
    alone = losses_of(small_job.out(2))
    assert len(alone) == NUM_STEPS
    assert losses_of(out) == pytest.approx(alone, rel=1e-4)
    (out / f"step-{NUM_STEPS:06d}").rename(tmp_path / "gone")
    again = run_onetoken("train", path, "--engine", "ray", "--workers", 1, "--resume")
    assert again.status == 0, again.err
    assert (out / f"step-{NUM_STEPS:06d}").is_dir()
    assert losses_of(out) == pytest.approx(alone, rel=1e-4)


def test_torchrun_starts_two_processes(small_job: SmallJob, tmp_path: Path) -> None:
    out = tmp_path / "torchrun"
    path = write_config(small_job, out)
    command = [TORCHRUN, "--standalone", "--nproc-per-node", "2", "--no-python", "onetoken", "train", path]
    folder = str(Path(sys.executable).parent)
    environment = os.environ | {"PATH": folder + os.pathsep + os.environ["PATH"], "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("stage 2:") == 1
    assert losses_of(out) == pytest.approx(losses_of(small_job.out(2)), rel=1e-4)
