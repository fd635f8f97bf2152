"""`onetoken build`, killed and started again, writes what an undisturbed build writes, byte for byte."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from encodable_inputs import recipe_values, write_inputs
from watched_storage import read_objects

from infra.storage import LocalStorage
from pipelines.commit import load_manifest

REPOSITORY = Path(__file__).resolve().parents[2]
POLL_S = 0.005
DEADLINE_S = 300
NUM_KILLS = 5
NUM_STAGES = 3

StartBuild = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe on disk, beside its inputs."""
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe_values(folder)))
    return path


@pytest.fixture(scope="module")
def undisturbed(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Every object of a build that nobody disturbed."""
    corpus = tmp_path_factory.mktemp("undisturbed") / "corpus"
    finish(start_build(recipe, corpus))
    objects = read_objects(corpus)
    assert not [path for path in corpus.rglob("*") if is_temporary(path)]
    return objects


@pytest.fixture
def builds(recipe: Path) -> Iterator[StartBuild]:
    """Starts builds into a folder; what still runs at the end of the test is ended."""
    started: list[subprocess.Popen[bytes]] = []

    def start(corpus: Path, engine: str = "serial") -> subprocess.Popen[bytes]:
        started.append(start_build(recipe, corpus, engine))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            kill(process)


def start_build(recipe: Path, corpus: Path, engine: str = "serial") -> subprocess.Popen[bytes]:
    """A process of its own, in a session of its own."""
    program = "from jobs.cli import main; main()"
    command = [
        sys.executable,
        "-c",
        program,
        "build",
        str(recipe),
        "--corpus",
        str(corpus),
        "--engine",
        engine,
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(
        command,
        cwd=recipe.parent,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[bytes]) -> str:
    """Wait for the end of a build, which must be a good one."""
    told, complaints = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, complaints.decode()
    return told.decode()


def kill(process: subprocess.Popen[bytes]) -> bool:
    """End a process as no handler can prevent; False when it had come to a good end already."""
    process.send_signal(signal.SIGKILL)
    complaints = process.communicate()[1]
    assert process.returncode in (0, -signal.SIGKILL), complaints.decode()
    return process.returncode != 0


def is_temporary(path: Path) -> bool:
    return path.is_file() and path.name.startswith(".writing-")


def list_files(corpus: Path) -> list[Path]:
    """What is there at this moment, while somebody else writes."""
    return [Path(root) / name for root, _, names in os.walk(corpus) for name in names]


def count_objects(corpus: Path) -> int:
    return sum(not path.name.startswith(".") and "scratch" not in path.parts for path in list_files(corpus))


def wait_for(happened: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Poll until something happened or the process ended."""
    end = time.monotonic() + DEADLINE_S
    while not happened() and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(POLL_S)


def test_a_build_holds_every_stage(undisturbed: dict[str, bytes]) -> None:
    folders = {path.partition("/")[0] for path in undisturbed}
    tables = {"examples", "media", "probes", "recipes"}
    assert folders == {"corpus.json", "manifests", *tables, "shards", "features", "commits"}
    assert len(undisturbed) >= 25
    assert sum(path.startswith("manifests/") for path in undisturbed) == NUM_STAGES


def kill_at(process: subprocess.Popen[bytes], corpus: Path, num_objects: int) -> dict[str, bytes]:
    """Kill a build when so many objects are there; what it left."""
    wait_for(lambda: count_objects(corpus) >= num_objects, process)
    assert kill(process)
    return read_objects(corpus)


def moments(undisturbed: dict[str, bytes]) -> list[int]:
    """Numbers of objects, spread from the first to the last but a few."""
    return [1 + part * (len(undisturbed) - 1) // NUM_KILLS for part in range(NUM_KILLS)]


def test_killed_at_five_objects_in_a_row(
    builds: StartBuild, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus"
    num_left: list[int] = []
    for num_objects in moments(undisturbed):
        left = kill_at(builds(corpus), corpus, num_objects)
        # The pointer alone is ever replaced, and scratch is what a run passes to itself.
        left.pop("corpus.json", None)
        kept = {path: data for path, data in left.items() if not path.startswith("scratch/")}
        assert kept.items() <= undisturbed.items()
        num_left.append(len(kept))
    assert num_left == sorted(num_left)
    assert num_left[0] < num_left[-1] < len(undisturbed)
    finish(builds(corpus))
    check_corpus(corpus, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(NUM_KILLS))
def test_killed_once_when_an_object_appears(
    builds: StartBuild, undisturbed: dict[str, bytes], tmp_path: Path, part: int
) -> None:
    corpus = tmp_path / "corpus"
    left = kill_at(builds(corpus), corpus, moments(undisturbed)[part])
    assert len(left) < len(undisturbed)
    finish(builds(corpus))
    check_corpus(corpus, undisturbed)


def check_corpus(corpus: Path, undisturbed: dict[str, bytes]) -> None:
    """Same objects, same bytes, and nothing half-written is listed."""
    assert read_objects(corpus) == undisturbed
    storage = LocalStorage(corpus)
    load_manifest(storage)
    listed = [path for folder in corpus.iterdir() if folder.is_dir() for path in storage.list(folder.name)]
    assert sorted(["corpus.json", *listed]) == sorted(undisturbed)


@pytest.mark.slow
def test_killed_again_and_again_at_random_moments(
    builds: StartBuild, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    random_s = random.Random(2)
    corpus = tmp_path / "corpus"
    started = time.monotonic()
    finish(builds(tmp_path / "timed"))
    whole_s = time.monotonic() - started
    num_killed = 0
    for _ in range(8):
        process = builds(corpus)
        time.sleep(random_s.uniform(0.3, 1.05) * whole_s)
        num_killed += kill(process)
    finish(builds(corpus))
    assert num_killed >= 3
    check_corpus(corpus, undisturbed)


def parent_of(process: Path) -> int | None:
    """The parent of a process in /proc; its name, which may hold anything, stands in brackets."""
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return None


def find_descendants(root: int) -> set[int]:
    """Processes that one started, directly or not."""
    parents = {int(path.name): parent_of(path) for path in Path("/proc").iterdir() if path.name.isdigit()}
    found = {root}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {root}


def find_workers(driver: int) -> set[int]:
    """Processes in which Ray runs our workers, below the driver."""
    return {
        process
        for process in find_descendants(driver)
        if "ray::_Host" in read_command(Path("/proc") / str(process))
    }


def read_command(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def test_killed_children_change_no_byte(
    builds: StartBuild, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    process = builds(tmp_path / "corpus", "processes")
    seen: set[int] = set()

    def has_new_child() -> bool:
        children = {child for child in find_descendants(process.pid) if is_child(child, process.pid)}
        seen.update(fresh := children - seen)
        for child in sorted(fresh)[:1]:
            killed.append(child)
            os.kill(child, signal.SIGKILL)
        return len(killed) == NUM_KILLS

    killed: list[int] = []
    wait_for(has_new_child, process)
    assert len(killed) == NUM_KILLS
    finish(process)
    check_corpus(tmp_path / "corpus", undisturbed)


def is_child(process: int, driver: int) -> bool:
    return parent_of(Path("/proc") / str(process)) == driver


@pytest.mark.ray
def test_a_killed_ray_worker_changes_no_byte(
    builds: StartBuild, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus"
    process = builds(corpus, "ray")
    earlier: set[int] = set()
    workers: set[int] = set()

    def has_new_workers() -> bool:
        manifests = sum(path.parent.name == "manifests" for path in list_files(corpus))
        (earlier if manifests < NUM_STAGES - 1 else workers).update(find_workers(process.pid))
        return bool(workers - earlier)

    wait_for(has_new_workers, process)
    assert process.poll() is None
    os.kill(min(workers - earlier), signal.SIGKILL)
    finish(process)
    check_corpus(corpus, undisturbed)
