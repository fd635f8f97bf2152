"""`onetoken build`, killed and started again, writes what an undisturbed build writes, byte for byte."""

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from build_commands import (
    Run,
    StartBuild,
    check_corpus,
    check_left,
    find_descendants,
    finish,
    is_child,
    kill,
    read_command,
    wait_for,
)
from mortal_builds import Ending, list_final
from watched_storage import read_objects

NUM_KILLS = 5
NUM_STAGES = 3


def test_a_build_holds_every_stage(whole: tuple[Path, Ending], undisturbed: dict[str, bytes]) -> None:
    corpus, _ = whole
    assert not [path for path in corpus.rglob(".writing-*")]
    assert read_objects(corpus) == undisturbed
    folders = {path.partition("/")[0] for path in undisturbed}
    tables = {"examples", "media", "probes", "recipes"}
    assert folders == {"corpus.json", "manifests", *tables, "shards", "features", "commits"}
    assert len(undisturbed) >= 25
    assert sum(path.startswith("manifests/") for path in undisturbed) == NUM_STAGES


def test_a_new_interpreter_builds_the_same(
    builds: StartBuild, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    finish(builds(tmp_path / "corpus"))
    assert read_objects(tmp_path / "corpus") == undisturbed


def moments(undisturbed: dict[str, bytes]) -> list[int]:
    """Numbers of objects, spread from the first to the last but a few."""
    return [1 + part * (len(undisturbed) - 1) // NUM_KILLS for part in range(NUM_KILLS)]


def test_killed_at_five_objects_in_a_row(run: Run, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    num_left: list[int] = []
    for num_objects in moments(undisturbed):
        assert run(corpus, die_at_objects=num_objects).was_killed
        num_left.append(check_left(corpus, undisturbed))
    assert num_left == moments(undisturbed)
    assert not run(corpus).was_killed
    check_corpus(corpus, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(NUM_KILLS))
def test_killed_from_outside_when_an_object_appears(
    builds: StartBuild, undisturbed: dict[str, bytes], tmp_path: Path, part: int
) -> None:
    """Whatever the build was at by then: it may have gone on, even to a good end."""
    corpus = tmp_path / "corpus"
    process = builds(corpus)
    wait_for(lambda: len(list_final(corpus)) >= moments(undisturbed)[part], process)
    kill(process)
    assert check_left(corpus, undisturbed) >= moments(undisturbed)[part]
    finish(builds(corpus))
    check_corpus(corpus, undisturbed)


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
    while num_killed < NUM_KILLS:
        process = builds(corpus)
        time.sleep(random_s.uniform(0.3, 1.05) * whole_s)
        if kill(process):
            num_killed += 1
        else:
            shutil.rmtree(corpus)
    finish(builds(corpus))
    check_corpus(corpus, undisturbed)


def find_workers(driver: int) -> set[int]:
    """Processes in which Ray runs our workers, below the driver."""
    return {
        process
        for process in find_descendants(driver)
        if "ray::_Host" in read_command(Path("/proc") / str(process))
    }


@pytest.mark.parametrize(
    ("verb", "num_kills"), [("ingest", 2), pytest.param("build", NUM_KILLS, marks=pytest.mark.slow)]
)
def test_killed_children_change_no_byte(
    builds: StartBuild, run: Run, tmp_path: Path, verb: str, num_kills: int
) -> None:
    """Each child as soon as it is seen; a stage starts at least one more, whatever became of the others."""
    run(tmp_path / "serial", verb)
    process = builds(tmp_path / "corpus", "processes", verb)
    seen: set[int] = set()
    killed: list[int] = []

    def has_killed_enough() -> bool:
        children = {child for child in find_descendants(process.pid) if is_child(child, process.pid)}
        fresh = children - seen
        seen.update(fresh)
        for child in sorted(fresh)[:1]:
            killed.append(child)
            os.kill(child, signal.SIGKILL)
        return len(killed) == num_kills

    wait_for(has_killed_enough, process)
    assert len(killed) == num_kills
    finish(process)
    check_corpus(tmp_path / "corpus", read_objects(tmp_path / "serial"))


@pytest.mark.slow
@pytest.mark.ray
def test_a_killed_ray_worker_changes_no_byte(
    builds: StartBuild, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus"
    process = builds(corpus, "ray")
    earlier: set[int] = set()
    workers: set[int] = set()

    def has_new_workers() -> bool:
        manifests = sum(path.startswith("manifests/") for path in list_final(corpus))
        (earlier if manifests < NUM_STAGES - 1 else workers).update(find_workers(process.pid))
        return bool(workers - earlier)

    wait_for(has_new_workers, process)
    assert process.poll() is None
    os.kill(min(workers - earlier), signal.SIGKILL)
    finish(process)
    check_corpus(corpus, undisturbed)
