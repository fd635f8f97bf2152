"""`onetoken train --engine ray`, and torchrun: several processes train what one does."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_job import NUM_STEPS, SmallJob, run_onetoken, write_yaml

from jobs.stopping import INTERRUPTED_STATUS
from pipelines.train.checkpoint import open_checkpoint

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("outcomes"),
    # Ray Train's own imports warn.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
TORCHRUN = Path(sys.executable).with_name("torchrun")
ONETOKEN = Path(sys.executable).with_name("onetoken")
MANY = 1_000_000


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


@pytest.mark.ray
def test_what_a_worker_raises_ends_the_run_at_once(small_job: SmallJob, tmp_path: Path) -> None:
    """Not after so many starts as lost workers are worth, and in the words of a run without Ray."""
    path = write_config(small_job, tmp_path / "out")
    path.write_text(path.read_text() + "spec: '0123456789'\n")
    outcome = run_onetoken("train", path, "--engine", "ray", "--workers", 2)
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.said.startswith("error: the corpus has no features of spec 0123456789; it has ")
    assert "Traceback" not in outcome.err
    assert "started again" not in outcome.err


@pytest.mark.ray
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_sigterm_saves_what_workers_learned(small_job: SmallJob, tmp_path: Path, number: int) -> None:
    """The signal comes when a step has been taken, in a run that would last for days; paths are relative.

    SIGINT ends the run as it ends every command.
    """
    write_config(small_job, tmp_path / "out", steps=MANY, save_every=MANY, stop_within_s=600)
    config = yaml.safe_load((tmp_path / "out.yaml").read_text())
    config |= {"out": "out", "corpus": os.path.relpath(config["corpus"], tmp_path)}
    write_yaml(tmp_path / "out.yaml", config)
    command = [ONETOKEN, "train", "out.yaml", "--engine", "ray", "--workers", "2"]
    metrics = tmp_path / "out/metrics.jsonl"
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not (metrics.exists() and metrics.read_text().endswith("\n")):
            time.sleep(0.05)
        process.send_signal(number)
        said = process.communicate()[1]
    if number == signal.SIGINT:
        assert process.returncode == INTERRUPTED_STATUS, said
        assert "stopped;" in said
        return
    assert process.returncode == 0, said
    last = len(losses_of(tmp_path / "out"))
    assert 1 <= last < MANY
    assert open_checkpoint(tmp_path / "out").state.step == last


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
