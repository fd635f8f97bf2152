"""`onetoken` as tests of lost processes run it, over inputs that all of them share.

`run` is the command in a process forked from one that has its libraries loaded, `start_build` a new
interpreter: what imports for five seconds is worth it only where processes, signals or mounts need it.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import count
from pathlib import Path

import pytest
import yaml
from encodable_inputs import recipe_values, write_inputs
from mortal_builds import Ending, Order

from infra.storage import LocalStorage
from pipelines.commit import load_manifest

PROGRAM = Path(__file__).with_name("mortal_builds.py")
REPOSITORY = Path(__file__).resolve().parents[2]
POLL_S = 0.005
DEADLINE_S = 300

StartBuild = Callable[..., subprocess.Popen[bytes]]
Run = Callable[..., Ending]
Race = Callable[..., list[Ending]]


def environment() -> dict[str, str]:
    """What a command sees: this moment's, with one thread, and this repository first."""
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe on disk, beside its inputs."""
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe_values(folder)))
    return path


@pytest.fixture(scope="session")
def program() -> Iterator[subprocess.Popen[str]]:
    """Commands, one after the other, each in a process of its own."""
    pipe, command = subprocess.PIPE, [sys.executable, str(PROGRAM)]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment()) as process:
        yield process
        process.stdin.close()


@pytest.fixture(scope="session")
def race(program: subprocess.Popen[str], tmp_path_factory: pytest.TempPathFactory, recipe: Path) -> Race:
    """Runs a command some times at once, until each run ends or is killed."""
    folder, numbers = tmp_path_factory.mktemp("runs"), count()

    def run(corpus: Path | str, verb: str = "build", engine: str = "serial", **when: object) -> list[Ending]:
        words = [verb, str(recipe), "--corpus", str(corpus), "--engine", engine]
        said = str(folder / str(next(numbers)))
        order = Order(words, str(corpus), said, environment=environment(), **when)
        program.stdin.write(json.dumps(asdict(order)) + "\n")
        program.stdin.flush()
        return [Ending(**ending) for ending in json.loads(program.stdout.readline())]

    return run


@pytest.fixture(scope="session")
def run(race: Race) -> Run:
    """Runs a command until it ends or is killed."""

    def run_alone(*arguments: object, **when: object) -> Ending:
        (ending,) = race(*arguments, **when)
        assert ending.was_killed or ending.status == 0, ending.said
        return ending

    return run_alone


@pytest.fixture(scope="session")
def whole(run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ending]:
    """A build that nobody disturbed, and how that went."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run(folder / "first")  # what is slow once, in a process that is new
    return folder / "corpus", run(folder / "corpus")


@pytest.fixture(scope="session")
def undisturbed(whole: tuple[Path, Ending]) -> dict[str, bytes]:
    """Every object of a build that nobody disturbed."""
    corpus, ending = whole
    assert not ending.was_killed
    return read_lasting(corpus)


@pytest.fixture
def builds(recipe: Path) -> Iterator[StartBuild]:
    """Starts builds into a folder; what still runs at the end of the test is ended."""
    started: list[subprocess.Popen[bytes]] = []

    def start(corpus: Path | str, engine: str = "serial", verb: str = "build") -> subprocess.Popen[bytes]:
        started.append(start_build(recipe, corpus, engine, verb))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            kill(process)


def start_build(
    recipe: Path, corpus: Path | str, engine: str = "serial", verb: str = "build"
) -> subprocess.Popen[bytes]:
    """A new interpreter, in a session of its own."""
    program = "from jobs.cli import main; main()"
    words = (verb, str(recipe), "--corpus", str(corpus), "--engine", engine)
    return subprocess.Popen(
        [sys.executable, "-c", program, *words],
        cwd=recipe.parent,
        env=environment(),
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


def wait_for(happened: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Poll until something happened or the process ended."""
    end = time.monotonic() + DEADLINE_S
    while not happened() and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(POLL_S)


def read_lasting(corpus: Path) -> dict[str, bytes]:
    """What is below a corpus but scratch and the notices that dead builds leave to `onetoken gc`."""
    files = {path.relative_to(corpus).as_posix(): path for path in corpus.rglob("*") if path.is_file()}
    return {
        name: path.read_bytes()
        for name, path in files.items()
        if not path.name.startswith(".") and not name.startswith(("scratch/", "publishing/"))
    }


def check_corpus(corpus: Path, undisturbed: dict[str, bytes]) -> None:
    """Same objects, same bytes, and nothing half-written is listed."""
    assert read_lasting(corpus) == undisturbed
    storage = LocalStorage(corpus)
    load_manifest(storage)
    folders = [folder.name for folder in corpus.iterdir() if folder.is_dir() and folder.name != "publishing"]
    listed = [path for folder in folders for path in storage.list(folder)]
    assert sorted(["corpus.json", *listed]) == sorted(undisturbed)


def check_left(corpus: Path, undisturbed: dict[str, bytes]) -> int:
    """What a killed build left is part of the whole; the number of its objects."""
    left = read_lasting(corpus)
    left.pop("corpus.json", None)
    assert left.items() <= undisturbed.items()
    return len(left)


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


def is_child(process: int, driver: int) -> bool:
    return parent_of(Path("/proc") / str(process)) == driver


def read_command(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""
