"""`onetoken build` on SIGINT or SIGTERM: one line, no process left, and a second run completes the corpus."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from encodable_inputs import recipe_values, write_inputs
from test_build_killed import count_objects, find_descendants, finish, start_build, wait_for
from watched_storage import read_objects

STOP_LIMIT_S = 60
STOPPED = "error: stopped; what is committed stays, run the same command again to go on\n"

Stop = Callable[[Path, str, signal.Signals, int], None]


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
    """Every object of a serial build that nobody disturbed."""
    corpus = tmp_path_factory.mktemp("undisturbed") / "corpus"
    finish(start_build(recipe, corpus))
    return read_objects(corpus)


@pytest.fixture
def stop(recipe: Path) -> Iterator[Stop]:
    """Starts a build, and stops it as soon as it has workers and the corpus so many objects."""
    started: list[subprocess.Popen[bytes]] = []

    def start_and_stop(corpus: Path, engine: str, number: signal.Signals, num_objects: int) -> None:
        process = start_build(recipe, corpus, engine)
        started.append(process)
        descendants: set[int] = set()

        def has_workers() -> bool:
            descendants.update(find_descendants(process.pid) if count_objects(corpus) >= num_objects else ())
            return bool(descendants)

        wait_for(has_workers, process)
        assert descendants
        process.send_signal(number)
        told, complaints = process.communicate(timeout=STOP_LIMIT_S)
        assert process.returncode == 128 + number, complaints.decode()
        assert told == b""
        assert complaints.decode().endswith(STOPPED)
        assert "Traceback" not in complaints.decode()
        assert wait_for_end(descendants) == set()

    yield start_and_stop
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


def wait_for_end(processes: set[int]) -> set[int]:
    """Those that do not end within the limit; Ray's servers notice the end of their driver a little later."""
    end = time.monotonic() + STOP_LIMIT_S
    while (alive := {process for process in processes if is_alive(process)}) and time.monotonic() < end:
        time.sleep(0.05)
    return alive


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("engine", ["processes", pytest.param("ray", marks=pytest.mark.ray)])
def test_a_build_stops_and_goes_on(
    stop: Stop, recipe: Path, undisturbed: dict[str, bytes], tmp_path: Path, engine: str
) -> None:
    corpus = tmp_path / "corpus"
    for number, num_objects in ((signal.SIGINT, 1), (signal.SIGTERM, len(undisturbed) // 2)):
        stop(corpus, engine, number, num_objects)
        left = read_objects(corpus)
        left.pop("corpus.json", None)
        assert left.items() <= undisturbed.items()
        assert len(left) < len(undisturbed) - 1
    finish(start_build(recipe, corpus, "processes"))
    assert read_objects(corpus) == undisturbed


def test_children_go_with_a_killed_driver(recipe: Path, tmp_path: Path) -> None:
    process = start_build(recipe, tmp_path / "corpus", "processes")
    children: set[int] = set()

    def has_children() -> bool:
        children.update(find_descendants(process.pid))
        return bool(children)

    wait_for(has_children, process)
    assert children
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert wait_for_end(children) == set()
