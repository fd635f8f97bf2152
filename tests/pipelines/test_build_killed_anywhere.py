"""A build that is killed at any step of it, or at any moment, and run again: nothing lost, nothing twice.

Steps are those of the file system, heard by `mortal_builds`, so none is left out because nobody thought of
it. Each build ends within the limit of that program.
"""

import logging
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest
from build_commands import Run, check_corpus, read_lasting
from mortal_builds import Ending, is_final

from infra.storage import LocalStorage
from pipelines.commit import load_manifest
from schemas.digest import digest_of, sha256_hex

NUM_SAMPLED = 3
NUM_MOMENTS = 200
STAGES = ("scan", "probe", "read", "group", "shard", "featurize")


def check_rerun(run: Run, corpus: Path, killed: Ending, expected: dict[str, bytes]) -> None:
    """What was left is right, and so is the corpus after another run, which repeats one shard at most."""
    left = read_lasting(corpus)
    if "corpus.json" in left:
        manifest = load_manifest(LocalStorage(corpus))
        assert {entry.path for entry in manifest.list_objects()} <= set(left)
    assert {path: data for path, data in left.items() if is_final(path)}.items() <= expected.items()
    again = run(corpus)
    assert not again.was_killed
    check_corpus(corpus, expected)
    assert len(set(killed.shards) & set(again.shards)) <= 1
    assert len(again.shards) == len(set(again.shards))
    shutil.rmtree(corpus)


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


def test_steps_are_all_of_them(whole: tuple[Path, Ending], undisturbed: dict[str, bytes]) -> None:
    _, ending = whole
    # at least four steps an object: a temporary name, the flush, the final name, the flush of the folder
    assert ending.num_steps > 4 * len(undisturbed)
    assert len(ending.shards) == len(set(ending.shards)) >= 8


def test_killed_at_some_steps(
    run: Run, whole: tuple[Path, Ending], undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    _, ending = whole
    for part in range(NUM_SAMPLED):
        step = (2 * part + 1) * ending.num_steps // (2 * NUM_SAMPLED)
        killed = run(tmp_path / "corpus", die_at=step)
        assert killed.was_killed
        assert killed.num_steps == step
        check_rerun(run, tmp_path / "corpus", killed, undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_killed_at_every_step(
    run: Run, whole: tuple[Path, Ending], undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    """What another run does depends on what was left, so what was seen before is not looked at again."""
    _, ending = whole
    corpus = tmp_path / "corpus"
    stages: Counter[str] = Counter()
    seen: set[str] = set()
    for step in range(1, ending.num_steps + 1):
        killed = run(corpus, die_at=step)
        assert killed.was_killed
        corpus.mkdir(exist_ok=True)
        stages[killed.stage] += 1
        state = describe_state(corpus)
        if state in seen:
            shutil.rmtree(corpus)
        else:
            check_rerun(run, corpus, killed, undisturbed)
            logging.getLogger(__name__).info("step %d of %d: %s", step, ending.num_steps, killed)
        seen.add(state)
    assert len(seen) > len(undisturbed)
    logging.getLogger(__name__).info("kills at every step by stage: %s", dict(stages))
    assert stages.total() == ending.num_steps
    assert {"shard", "featurize"} <= set(stages)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_killed_at_two_hundred_random_moments(
    run: Run, whole: tuple[Path, Ending], undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    _, ending = whole
    draw = random.Random(5)
    stages: Counter[str] = Counter()
    while stages.total() < NUM_MOMENTS:
        killed = run(tmp_path / "corpus", die_after_s=draw.uniform(0.01, ending.seconds))
        if not killed.was_killed:
            shutil.rmtree(tmp_path / "corpus")
            continue
        stages[killed.stage] += 1
        logging.getLogger(__name__).info("%d kills: %s", stages.total(), killed)
        (tmp_path / "corpus").mkdir(exist_ok=True)
        check_rerun(run, tmp_path / "corpus", killed, undisturbed)
    logging.getLogger(__name__).info("kills at random moments by stage: %s", dict(stages))
    assert len(stages.keys() & set(STAGES)) >= 3
