"""A build on several machines: whatever is lost, the bytes are those of a serial build, exactly once.

The machines are those of `infra.machines`: root and Linux, else these tests are skipped. Each scenario ends
within the limit that stands on it, the start of the cluster included.
"""

import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from build_commands import find_descendants, finish, read_command, start_build
from encodable_inputs import recipe_values, write_inputs
from mortal_builds import is_final
from slowed_builds import GO_ON
from test_build_stopped import STOPPED
from watched_storage import read_objects

from infra import machines as machines_module
from infra.machines import Machines
from infra.storage import LocalStorage
from pipelines.commit import load_manifest
from pipelines.engine import SerialEngine
from pipelines.ingest.flow import ingest
from pipelines.shard.flow import shard
from schemas.configuration import build
from schemas.recipe import Recipe

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(machines_module.missing() is not None, reason=f"{machines_module.missing()}"),
]

PAUSE_S = 0.5
NUM_WORKERS = 2
NUM_MOMENTS = 10
POLL_S = 0.02
STOP_LIMIT_S = 60
BUILD_LIMIT_S = 300
BUSY_LIMIT_S = 600
"""Of a build on a machine whose cores others use too."""
SHARDS = {"max_views": 5}
"""Ten sample shards, nine feature shards."""
PROGRAM = "import sys; sys.path.append(sys.argv.pop(1)); from slowed_builds import main; main()"


@dataclass(frozen=True)
class Note:
    """A line of what workers wrote down."""

    moment: str
    unit: str
    machine: str
    number: str


@dataclass
class Running:
    """A build under way on the head."""

    process: subprocess.Popen[bytes]
    notes_folder: Path
    limit_s: float

    @property
    def notes(self) -> list[Note]:
        paths = [path for path in self.notes_folder.iterdir() if path.name != GO_ON]
        return [Note(*path.name.split("+")) for path in paths]

    def names(self, moment: str, stage: str = "", machine: str = "") -> Counter[str]:
        """How often units of a stage, on a machine, began or ended."""
        return Counter(
            note.unit
            for note in self.notes
            if note.moment == moment and note.unit.startswith(stage) and machine in ("", note.machine)
        )

    def wait_for(self, happened: Callable[[], bool]) -> None:
        """Poll until something happened; the build must not end before."""
        end = time.monotonic() + self.limit_s
        while not happened():
            assert self.process.poll() is None, self.process.communicate()[1].decode()
            assert time.monotonic() < end, sorted(path.name for path in self.notes_folder.iterdir())
            time.sleep(POLL_S)

    @property
    def driver(self) -> int:
        """The process of the command itself, inside of the head."""
        return min(pid for pid in find_descendants(self.process.pid) if "slowed_builds" in command_of(pid))

    def finish(self) -> str:
        """Wait for the end, which must be a good one."""
        told, complaints = self.process.communicate(timeout=self.limit_s)
        assert self.process.returncode == 0, complaints.decode()
        return told.decode()


def command_of(process: int) -> str:
    return read_command(Path(f"/proc/{process}"))


Start = Callable[..., Running]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe on disk, beside its inputs."""
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe_values(folder) | {"shards": SHARDS}))
    return path


@pytest.fixture(scope="module")
def undisturbed(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Every object of a serial build that nobody disturbed."""
    corpus = tmp_path_factory.mktemp("undisturbed") / "corpus"
    finish(start_build(recipe, corpus))
    return read_objects(corpus)


@pytest.fixture
def machines() -> Iterator[Machines]:
    """A head and two workers. Ray's socket paths are short, so their folder has to be."""
    folder = Path(tempfile.mkdtemp(prefix="otm-"))
    made = Machines(folder)
    try:
        made.up(NUM_WORKERS, is_temporary=True)
        yield made
    finally:
        made.down()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def start(machines: Machines, recipe: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts a command on the head."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(verb: str, limit_s: float, *, held: str = "") -> Running:
        notes = tmp_path / f"notes{len(started)}"
        notes.mkdir()
        onetoken = (verb, str(recipe), "--corpus", str(tmp_path / "corpus"), "--engine", "ray")
        words = (str(notes), str(PAUSE_S), held, *onetoken, "--ray-address", machines.address)
        command = machines.on_head(sys.executable, "-c", PROGRAM, str(Path(__file__).parent), *words)
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdout=pipe, stderr=pipe, start_new_session=True)
        started.append(process)
        return Running(process, notes, limit_s)

    yield begin
    for process in started:
        if process.poll() is None:
            for descendant in find_descendants(process.pid):
                os.kill(descendant, signal.SIGKILL)
            process.kill()
            process.communicate()


def check_corpus(corpus: Path, undisturbed: dict[str, bytes]) -> None:
    """Same objects, same bytes; one commit a unit."""
    assert read_objects(corpus) == undisturbed
    manifest = load_manifest(LocalStorage(corpus))
    units = [path.name.rpartition("-")[0] for path in (corpus / "commits").iterdir()]
    assert (
        len(units)
        == len(set(units))
        == len(manifest.shards) + sum(len(features.shards) for features in manifest.features.values())
    )


def check_repeats(running: Running, most: int) -> None:
    """No shard was made again but those in flight where something was lost; and those were."""
    begun = running.names("begun")
    assert 1 <= begun.total() - len(begun) <= most
    assert set(begun) == set(running.names("ended"))


def in_flight(running: Running, machine: str) -> set[str]:
    """Units that a machine has begun and not ended."""
    return set(running.names("begun", machine=machine)) - set(running.names("ended", machine=machine))


def shards_of(objects: dict[str, bytes]) -> dict[str, bytes]:
    return {path: data for path, data in objects.items() if path.startswith("shards/")}


@pytest.mark.timeout(600)
def test_a_lost_machine_costs_a_repeat(
    machines: Machines, start: Start, recipe: Path, tmp_path: Path
) -> None:
    serial, corpus = tmp_path / "serial", tmp_path / "corpus"
    values = recipe_values(recipe.parent) | {"shards": SHARDS}
    ingest(build(values, Recipe, "tiny"), LocalStorage(serial), SerialEngine())
    shutil.copytree(serial, corpus)
    shard(build(values, Recipe, "tiny"), LocalStorage(serial), SerialEngine())
    running = start("shard", BUILD_LIMIT_S)
    running.wait_for(lambda: len(running.names("ended")) >= 2 and bool(in_flight(running, "machine2")))
    machines.kill(2)
    running.finish()
    check_repeats(running, most=1)
    assert len(shards_of(read_objects(serial))) == 20
    assert read_objects(corpus) == read_objects(serial)


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_a_machine_lost_while_features_are_made(
    machines: Machines, start: Start, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    running = start("build", BUILD_LIMIT_S)
    running.wait_for(
        lambda: (
            len(running.names("ended", "features")) >= 2
            and any(unit.startswith("features") for unit in in_flight(running, "machine2"))
        )
    )
    machines.kill(2)
    running.finish()
    check_repeats(running, most=1)
    check_corpus(tmp_path / "corpus", undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_a_killed_encoder(
    machines: Machines, start: Start, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    running = start("build", BUILD_LIMIT_S)
    running.wait_for(
        lambda: (
            len(running.names("ended", "features")) >= 1
            and any(unit.startswith("features") for unit in in_flight(running, "machine1"))
        )
    )
    (encoder,) = list_workers(machines, 1)
    os.kill(encoder, signal.SIGKILL)
    running.finish()
    check_repeats(running, most=1)
    check_corpus(tmp_path / "corpus", undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(700)
@pytest.mark.parametrize("stage", ["shard", "features"])
def test_a_killed_driver_is_started_again(
    machines: Machines, start: Start, undisturbed: dict[str, bytes], tmp_path: Path, stage: str
) -> None:
    corpus = tmp_path / "corpus"
    first = start("build", BUILD_LIMIT_S)
    first.wait_for(lambda: len(first.names("ended", stage)) >= 3 and bool(in_flight(first, "machine1")))
    os.kill(first.driver, signal.SIGKILL)
    first.process.communicate(timeout=STOP_LIMIT_S)
    assert first.process.returncode == -signal.SIGKILL
    wait_for_no_workers(machines)
    left = read_objects(corpus)
    assert {path: data for path, data in left.items() if is_final(path)}.items() <= undisturbed.items()
    second = start("build", BUILD_LIMIT_S)
    second.finish()
    check_second_run(first, second)
    check_corpus(corpus, undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_a_stopped_build_leaves_no_worker_and_goes_on(
    machines: Machines, start: Start, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    first = start("build", BUILD_LIMIT_S)
    first.wait_for(lambda: len(first.names("ended", "features")) >= 2)
    os.kill(first.driver, signal.SIGTERM)
    told, complaints = first.process.communicate(timeout=STOP_LIMIT_S)
    assert first.process.returncode == 128 + signal.SIGTERM, complaints.decode()
    assert (told, complaints.decode().endswith(STOPPED)) == (b"", True)
    assert "Traceback" not in complaints.decode()
    wait_for_no_workers(machines)
    second = start("build", BUILD_LIMIT_S)
    second.finish()
    check_second_run(first, second)
    check_corpus(tmp_path / "corpus", undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(700)
@pytest.mark.parametrize("first", ["zombie", "replacement"])
def test_a_machine_that_was_cut_off_may_finish_too(
    machines: Machines, start: Start, undisturbed: dict[str, bytes], tmp_path: Path, first: str
) -> None:
    """Nobody hears it any more, but it still reaches the corpus: the work is done twice, committed once."""
    running = start("build", BUILD_LIMIT_S, held="machine2")
    running.wait_for(lambda: bool(in_flight(running, "machine2")))
    (unit,) = in_flight(running, "machine2")
    machines.cut(2)
    if first == "replacement":
        running.wait_for(lambda: running.names("ended", machine="machine1")[unit] == 1)
    (running.notes_folder / GO_ON).touch()
    running.wait_for(lambda: running.names("ended", machine="machine2")[unit] == 1)
    machines.mend(2)
    running.finish()
    assert running.names("begun")[unit] == 2 or first == "zombie"
    assert running.names("begun").total() - len(running.names("begun")) <= 1
    check_corpus(tmp_path / "corpus", undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_at_ten_random_moments(
    machines: Machines, start: Start, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    corpus, draw = tmp_path / "corpus", random.Random(5)
    began = time.monotonic()
    start("build", BUSY_LIMIT_S).finish()
    whole_s = time.monotonic() - began
    stages: Counter[str] = Counter()
    while stages.total() < NUM_MOMENTS:
        shutil.rmtree(corpus)
        first = start("build", BUSY_LIMIT_S)
        time.sleep(draw.uniform(0.1, 0.95) * whole_s)
        if first.process.poll() is None:
            os.kill(first.driver, signal.SIGKILL)
        complaints = first.process.communicate(timeout=STOP_LIMIT_S)[1].decode()
        corpus.mkdir(exist_ok=True)
        if first.process.returncode == 0:
            continue
        stages[complaints.rpartition(": ")[0].rpartition("\n")[2] or "start"] += 1
        wait_for_no_workers(machines)
        second = start("build", BUSY_LIMIT_S)
        second.finish()
        check_second_run(first, second)
        check_corpus(corpus, undisturbed)
        logging.getLogger(__name__).info("kills by stage so far: %s", dict(stages))


def check_second_run(first: Running, second: Running) -> None:
    """What the first run had ended is not made again; what it had in flight may be."""
    again = set(first.names("begun")) & set(second.names("begun"))
    assert len(again) <= NUM_WORKERS
    assert not again & set(first.names("ended"))


def list_workers(machines: Machines, number: int) -> list[int]:
    return [pid for pid in machines.list_processes(number) if "ray::_Host" in command_of(pid)]


def wait_for_no_workers(machines: Machines) -> None:
    """Ray ends the actors of a driver that is gone a little later."""
    end = time.monotonic() + STOP_LIMIT_S
    while any(list_workers(machines, number + 1) for number in range(NUM_WORKERS)):
        assert time.monotonic() < end
        time.sleep(POLL_S)
