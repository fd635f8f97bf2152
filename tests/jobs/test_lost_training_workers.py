"""A worker of `onetoken train --engine ray` is lost: the losses are those of a run that nobody disturbed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from mortal_training import HELD_STEP
from small_job import CUT_AT, SmallJob, run_onetoken, write_yaml

from infra import machines as machines_module
from infra.machines import Machines

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.timeout(1500),
    pytest.mark.usefixtures("outcomes"),
]
NUM_STEPS = 8
WAIT_LIMIT_S = 600
PROGRAM = "import sys; sys.path.append(sys.argv.pop(1)); from mortal_training import main; main()"


def write_config(job: SmallJob, out: Path) -> Path:
    config: dict[str, Any] = yaml.safe_load(job.stage(2).read_text()) | {"out": str(out)}
    config["run"] |= {"steps": NUM_STEPS, "keep_last": None}
    return write_yaml(out.with_suffix(".yaml"), config)


def losses_of(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, NUM_STEPS + 1))
    return [line["loss"] for line in lines]


@pytest.fixture(scope="module")
def undisturbed(small_job: SmallJob, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of one process that nobody disturbed."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    outcome = run_onetoken("train", write_config(small_job, out))
    assert outcome.status == 0, outcome.err
    return losses_of(out)


@pytest.fixture
def machines() -> Iterator[Machines]:
    """A head and two workers. Ray's socket paths are short, so their folder has to be."""
    folder = Path(tempfile.mkdtemp(prefix="otm-"))
    made = Machines(folder)
    try:
        made.up(2, is_temporary=True)
        yield made
    finally:
        made.down()
        shutil.rmtree(folder, ignore_errors=True)


def train_and_lose(
    job: SmallJob,
    folder: Path,
    kill: Callable[[str, int], object],
    *,
    words: Sequence[str] = (),
    onto: Callable[..., list[str]] = lambda *words: list(words),
) -> list[tuple[int, int]]:
    """Train with two workers and lose one; the first step of each start, and its number of workers."""
    notes = folder / "notes"
    notes.mkdir()
    onetoken = ("train", str(write_config(job, folder / "out")), "--engine", "ray", "--workers", "2", *words)
    command = onto(sys.executable, "-c", PROGRAM, str(Path(__file__).parent), str(notes), *onetoken)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + WAIT_LIMIT_S
    try:
        while not (held := list(notes.glob("held+*"))):
            assert process.poll() is None, process.communicate()[1].decode()
            assert time.monotonic() < deadline, sorted(path.name for path in notes.iterdir())
            time.sleep(0.02)
        _, host, number = held[0].name.split("+")
        kill(host, int(number))
        told, complaints = process.communicate(timeout=WAIT_LIMIT_S)
        assert process.returncode == 0, (told, complaints.decode())
    finally:
        process.kill()
    began = [tuple(map(int, path.name.split("+")[1:])) for path in notes.glob("began+*")]
    assert sorted(rank for _, _, rank in began if rank)[:1] == [1]
    return sorted((step, world_size) for step, world_size, rank in began if rank == 0)


def check_start(step: int) -> None:
    """The last checkpoint that had reached the disk, before the step that no worker ended."""
    assert step in range(CUT_AT, HELD_STEP + 1, CUT_AT)


def test_a_killed_worker_is_replaced(small_job: SmallJob, undisturbed: list[float], tmp_path: Path) -> None:
    starts = train_and_lose(small_job, tmp_path, lambda _, process: os.kill(process, signal.SIGKILL))
    (first, again) = starts
    assert (first, again[1]) == ((0, 2), 2)
    check_start(again[0])
    assert losses_of(tmp_path / "out") == pytest.approx(undisturbed, rel=1e-4)


@pytest.mark.skipif(machines_module.missing() is not None, reason=f"{machines_module.missing()}")
def test_one_worker_goes_on_where_two_began(
    machines: Machines, small_job: SmallJob, undisturbed: list[float], tmp_path: Path
) -> None:
    """The machine of the other one lost its power, and there is no third."""
    starts = train_and_lose(
        small_job,
        tmp_path,
        lambda host, _: machines.kill(int(host.removeprefix("machine"))),
        words=("--ray-address", machines.address),
        onto=machines.on_head,
    )
    (first, again) = starts
    assert (first, again[1]) == ((0, 2), 1)
    check_start(again[0])
    assert losses_of(tmp_path / "out") == pytest.approx(undisturbed, rel=1e-4)
