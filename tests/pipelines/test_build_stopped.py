"""`onetoken build` on SIGINT or SIGTERM: one line, no process left, and a second run completes the corpus."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from build_commands import (
    DEADLINE_S,
    Run,
    StartBuild,
    check_corpus,
    check_left,
    find_descendants,
    start_build,
    wait_for,
)
from mortal_builds import list_final

INT, TERM = signal.SIGINT, signal.SIGTERM
STOPPED = "error: stopped; what is committed stays, run the same command again to go on\n"

Stop = Callable[[Path, str, signal.Signals, int], None]


@pytest.fixture
def stop(recipe: Path) -> Iterator[Stop]:
    """Starts a build, and stops it as soon as it has workers and the corpus so many objects."""
    started: list[subprocess.Popen[bytes]] = []

    def start_and_stop(corpus: Path, engine: str, number: signal.Signals, num_objects: int) -> None:
        process = start_build(recipe, corpus, engine)
        started.append(process)
        descendants: set[int] = set()

        def has_workers() -> bool:
            if len(list_final(corpus)) >= num_objects:
                descendants.update(find_descendants(process.pid))
            return bool(descendants)

        wait_for(has_workers, process)
        assert descendants
        process.send_signal(number)
        told, complaints = process.communicate(timeout=DEADLINE_S)
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
    end = time.monotonic() + DEADLINE_S
    while (alive := {process for process in processes if is_alive(process)}) and time.monotonic() < end:
        time.sleep(0.05)
    return alive


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("engine", "stops"),
    [
        ("processes", [(TERM, 0.0)]),
        pytest.param("processes", [(INT, 0.0), (TERM, 0.5)], marks=pytest.mark.slow),
        pytest.param("ray", [(INT, 0.0), (TERM, 0.5)], marks=[pytest.mark.slow, pytest.mark.ray]),
    ],
)
def test_a_build_stops_and_goes_on(
    stop: Stop,
    run: Run,
    undisturbed: dict[str, bytes],
    tmp_path: Path,
    engine: str,
    stops: list[tuple[signal.Signals, float]],
) -> None:
    corpus = tmp_path / "corpus"
    for number, share in stops:
        stop(corpus, engine, number, 1 + int(share * len(undisturbed)))
        assert check_left(corpus, undisturbed) < len(undisturbed) - 1
    run(corpus)
    check_corpus(corpus, undisturbed)


def test_children_go_with_a_killed_driver(builds: StartBuild, tmp_path: Path) -> None:
    process = builds(tmp_path / "corpus", "processes")
    children: set[int] = set()

    def has_children() -> bool:
        children.update(find_descendants(process.pid))
        return bool(children)

    wait_for(has_children, process)
    assert children
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert wait_for_end(children) == set()
