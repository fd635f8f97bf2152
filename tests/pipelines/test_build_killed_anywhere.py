"""A build that is killed at any step of it, or at any moment, and run again: nothing lost, nothing twice.

Steps are those of the file system, heard by `mortal_builds`, so none is left out because nobody thought of
it. Each build ends within the limit of that program.
"""

import json
import logging
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from encodable_inputs import recipe_values, write_inputs
from mortal_builds import Ending, Order
from watched_storage import read_objects

from infra.storage import LocalStorage
from pipelines.commit import load_manifest
from schemas.digest import digest_of, sha256_hex

PROGRAM = Path(__file__).with_name("mortal_builds.py")
REPOSITORY = Path(__file__).resolve().parents[2]
NUM_SAMPLED = 3
NUM_MOMENTS = 200
STAGES = ("scan", "probe", "read", "group", "shard", "featurize")

Build = Callable[..., Ending]


@pytest.fixture(scope="module")
def program() -> Iterator[subprocess.Popen[str]]:
    """Builds, one after the other, each in a process of its own."""
    environment = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, str(PROGRAM)], stdin=pipe, stdout=pipe, text=True, env=environment
    ) as process:
        yield process
        process.stdin.close()


@pytest.fixture(scope="module")
def build(program: subprocess.Popen[str], tmp_path_factory: pytest.TempPathFactory, recipe: Path) -> Build:
    """Builds a corpus until the end or until it is killed."""
    notes = tmp_path_factory.mktemp("notes")

    def run(corpus: Path, *, die_at: int = 0, die_after_s: float = 0.0) -> Ending:
        order = Order(str(recipe), str(corpus), str(notes / "notes"), die_at, die_after_s)
        Path(order.notes).unlink(missing_ok=True)
        program.stdin.write(json.dumps(asdict(order)) + "\n")
        program.stdin.flush()
        return Ending(**json.loads(program.stdout.readline()))

    return run


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe on disk, beside its inputs."""
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe_values(folder)))
    return path


@pytest.fixture(scope="module")
def undisturbed(build: Build, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], Ending]:
    """Every object of a build that nobody disturbed, and how that went."""
    corpus = tmp_path_factory.mktemp("undisturbed") / "corpus"
    build(corpus)  # what is slow once, in a process that is new
    shutil.rmtree(corpus)
    ending = build(corpus)
    assert not ending.was_killed
    return read_objects(corpus), ending


def check_rerun(build: Build, corpus: Path, killed: Ending, expected: dict[str, bytes]) -> None:
    """What was left is right, and so is the corpus after another run, which repeats one shard at most."""
    left = read_but_notices(corpus)
    if "corpus.json" in left:
        manifest = load_manifest(LocalStorage(corpus))
        assert {entry.path for entry in manifest.list_objects()} <= set(left)
        left.pop("corpus.json")
    assert {path: data for path, data in left.items() if not path.startswith("scratch/")}.items() <= (
        expected.items()
    )
    again = build(corpus)
    assert not again.was_killed
    assert read_but_notices(corpus) == expected
    assert len(set(killed.shards) & set(again.shards)) <= 1
    assert len(again.shards) == len(set(again.shards))
    shutil.rmtree(corpus)


def read_but_notices(corpus: Path) -> dict[str, bytes]:
    """Every object but the notices that dead builds leave to `onetoken gc`."""
    return {path: data for path, data in read_objects(corpus).items() if not path.startswith("publishing/")}


def describe_state(corpus: Path) -> str:
    """Every file and folder of a corpus; names that are drawn anew each time are left out."""
    found: list[tuple[str, str]] = []
    for path in corpus.rglob("*"):
        parts = list(path.relative_to(corpus).parts)
        if parts[0] == "scratch" and len(parts) > 1:
            parts[1] = "run"
        if parts[-1].startswith(".writing-"):
            parts[-1] = ".writing"
        found.append(("/".join(parts), sha256_hex(path.read_bytes()) if path.is_file() else "folder"))
    return digest_of(sorted(found))


def test_steps_are_all_of_them(undisturbed: tuple[dict[str, bytes], Ending]) -> None:
    objects, ending = undisturbed
    # at least four steps an object: a temporary name, the flush, the final name, the flush of the folder
    assert ending.num_steps > 4 * len(objects)
    assert len(ending.shards) == len(set(ending.shards)) >= 8


def test_killed_at_some_steps(
    build: Build, undisturbed: tuple[dict[str, bytes], Ending], tmp_path: Path
) -> None:
    expected, whole = undisturbed
    for part in range(NUM_SAMPLED):
        step = (2 * part + 1) * whole.num_steps // (2 * NUM_SAMPLED)
        killed = build(tmp_path / "corpus", die_at=step)
        assert killed.was_killed
        assert killed.num_steps == step
        check_rerun(build, tmp_path / "corpus", killed, expected)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_killed_at_every_step(
    build: Build, undisturbed: tuple[dict[str, bytes], Ending], tmp_path: Path
) -> None:
    """What another run does depends on what was left, so what was seen before is not looked at again."""
    expected, whole = undisturbed
    corpus = tmp_path / "corpus"
    stages: Counter[str] = Counter()
    seen: set[str] = set()
    for step in range(1, whole.num_steps + 1):
        corpus.mkdir()
        killed = build(corpus, die_at=step)
        assert killed.was_killed
        stages[killed.stage] += 1
        state = describe_state(corpus)
        if state in seen:
            shutil.rmtree(corpus)
        else:
            check_rerun(build, corpus, killed, expected)
            logging.getLogger(__name__).info("step %d of %d: %s", step, whole.num_steps, killed)
        seen.add(state)
    assert len(seen) > len(expected)
    logging.getLogger(__name__).info("kills at every step by stage: %s", dict(stages))
    assert stages.total() == whole.num_steps
    assert {"shard", "featurize"} <= set(stages)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_killed_at_two_hundred_random_moments(
    build: Build, undisturbed: tuple[dict[str, bytes], Ending], tmp_path: Path
) -> None:
    expected, whole = undisturbed
    draw = random.Random(5)
    stages: Counter[str] = Counter()
    while stages.total() < NUM_MOMENTS:
        killed = build(tmp_path / "corpus", die_after_s=draw.uniform(0.01, whole.seconds))
        if not killed.was_killed:
            shutil.rmtree(tmp_path / "corpus")
            continue
        stages[killed.stage] += 1
        logging.getLogger(__name__).info("%d kills: %s", stages.total(), killed)
        (tmp_path / "corpus").mkdir(exist_ok=True)
        check_rerun(build, tmp_path / "corpus", killed, expected)
    logging.getLogger(__name__).info("kills at random moments by stage: %s", dict(stages))
    assert len(stages.keys() & set(STAGES)) >= 3
