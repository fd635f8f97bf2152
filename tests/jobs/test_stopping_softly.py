"""SIGTERM during training: what was learned is saved, and the exit status is 0; or the deadline passes."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import yaml
from small_job import SmallJob, run_onetoken, write_yaml

from jobs.stopping import SoftStop
from pipelines.train.checkpoint import open_checkpoint

PROGRAM = Path(sys.executable).with_name("onetoken")
MANY = 1_000_000


def test_the_signal_is_a_wish() -> None:
    """Another one that follows at once is the same wish."""
    before = signal.getsignal(signal.SIGTERM)
    with SoftStop(600, echo_s=600) as stop:
        assert not stop.is_asked()
        os.kill(os.getpid(), signal.SIGTERM)
        deadline = time.monotonic() + 30
        while not stop.is_asked() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert stop.is_asked()
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_signal_ends_the_process_at_once() -> None:
    script = textwrap.dedent(
        """
        import os, signal, time
        from jobs.stopping import SoftStop
        with SoftStop(600, echo_s=0) as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            while not stop.is_asked():
                time.sleep(0.01)
            print("saving", flush=True)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(300)
        """
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "saving\n"
    assert done.returncode == -signal.SIGTERM


def test_after_the_deadline_the_process_ends() -> None:
    script = textwrap.dedent(
        """
        import os, signal, time
        from jobs.stopping import SoftStop
        with SoftStop(0.1):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(300)
        """
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "not saved within 0 s" in done.stderr


def test_a_whole_run_saves_and_ends_well(small_job: SmallJob, outcomes, tmp_path: Path) -> None:
    """The signal comes when a step has been taken, in a run that would last for days."""
    config = yaml.safe_load(small_job.stage(1).read_text()) | {"out": str(tmp_path / "out")}
    config["run"] |= {"steps": MANY, "save_every": MANY, "stop_within_s": 600}
    path, metrics = write_yaml(tmp_path / "config.yaml", config), tmp_path / "out/metrics.jsonl"
    with subprocess.Popen([PROGRAM, "train", path], stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not (metrics.exists() and metrics.read_text().endswith("\n")):
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        said = process.communicate()[1]
    assert process.returncode == 0, said
    last = json.loads(metrics.read_text().splitlines()[-1])["step"]
    assert 1 <= last < MANY
    assert open_checkpoint(tmp_path / "out").state.step == last
    assert "pass --resume to go on" in run_onetoken("train", path).said
