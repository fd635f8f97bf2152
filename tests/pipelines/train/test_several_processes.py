"""One, two and four processes train the same model; none waits for another for ever."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tiny_training import IDENTITY, WIDTH, save_language_model, tiny_config

from pipelines.train.agreement import check_agreement, list_differences
from pipelines.train.assembly import assemble
from pipelines.train.processes import ALONE, Processes, join_processes
from pipelines.train.sharding import shard_model
from pipelines.train.tensor_file import read_tensors
from schemas.errors import ConfigError, MismatchError

HERE = Path(__file__).parent
STEPS = 4
HAS_PEFT = importlib.util.find_spec("peft") is not None


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def run_jobs(folder: Path, jobs: list[dict[str, object]]) -> None:
    path = folder / "jobs.json"
    path.write_text(json.dumps(jobs))
    paths = [str(HERE), str(HERE.parent), str(HERE.parents[2])]
    done = subprocess.run(
        [sys.executable, str(HERE / "gloo_worlds.py"), str(path), str(free_port())],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def make_job(folder: Path, name: str, world: int, **changes: object) -> dict[str, object]:
    job: dict[str, object] = {
        "llm": str(folder / "llm"),
        "out": str(folder / name),
        "world": world,
        "stage": 2,
        "steps": STEPS,
        "text_only": "some",
        "resume": False,
        "poisoned": [],
        "apart": [],
        "newer": [],
        "sections": {
            "data": {"batch": 6, "micro_batch": 2},
            "run": {"save_every": 2, "keep_last": None},
            "memory": {"checkpoint_layers": True}
            | ({} if changes.get("stage") == 1 else {"frames_per_chunk": 2}),
        },
    }
    return job | changes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs on 1, 2 and 4 processes, with all of what they must not stumble over."""
    folder = tmp_path_factory.mktemp("worlds")
    save_language_model(folder / "llm")
    whole = {"data": {"batch": 6, "micro_batch": 6}, "run": {"save_every": 2, "keep_last": None}}
    jobs = [make_job(folder, f"world{world}", world) for world in (1, 2, 4)]
    jobs.append(make_job(folder, "whole", 1, sections=whole))
    often = jobs[0]["sections"] | {"run": {"save_every": 1, "keep_last": None}}
    for world in (1, 2):
        jobs.append(make_job(folder, f"second{world}", world, text_only="second"))
        jobs.append(make_job(folder, f"text{world}", world, text_only="all", steps=1))
        jobs.append(make_job(folder, f"first{world}", world, stage=1, text_only="none", steps=2))
        jobs.append(make_job(folder, f"steps{world}", world, text_only="steps", sections=often))
    whole_llm = jobs[0]["sections"] | {"model": {"train_embeddings": True}}
    jobs += [
        make_job(folder, f"embeddings{world}", world, text_only="second", sections=whole_llm)
        for world in (1, 2)
    ]
    jobs.append(make_job(folder, "fewer", 4, steps=2))
    jobs.append(make_job(folder, "fewer", 2, resume=True))
    jobs.append(make_job(folder, "again", 2, steps=2))
    jobs.append(make_job(folder, "again", 2, resume=True))
    jobs.append(make_job(folder, "poisoned", 2, poisoned=[9], sections=often))
    jobs.append(make_job(folder, "apart", 2, steps=2))
    jobs.append(make_job(folder, "apart", 2, resume=True, apart=[1]))
    jobs.append(make_job(folder, "newer", 2, newer=[1]))
    if HAS_PEFT:
        lora = {"model": {"lora": {"rank": 4, "alpha": 8, "dropout": 0.0}}}
        sections = jobs[0]["sections"] | lora
        jobs += [
            make_job(folder, f"lora{world}", world, text_only="second", sections=sections) for world in (1, 2)
        ]
    run_jobs(folder, jobs)
    return folder


def reports_of(folder: Path, name: str, world: int) -> list[list[float]]:
    """What every process reported, which must be one and the same."""
    reports = [
        json.loads((folder / name / f"reports-{world}-{rank}.json").read_text()) for rank in range(world)
    ]
    assert all(report == reports[0] for report in reports)
    return reports[0]


def assert_close(folder: Path, one: str, other: str, step: int) -> None:
    there, here = (
        read_tensors(folder / name / f"step-{step:06d}/model.safetensors") for name in (one, other)
    )
    assert there.keys() == here.keys()
    assert len(there) > 20
    for name, weight in there.items():
        torch.testing.assert_close(
            here[name], weight, rtol=1e-4, atol=2e-5, msg=lambda text, n=name: n + text
        )


@pytest.mark.parametrize("world", [2, 4])
def test_more_processes_train_the_same(folder: Path, world: int) -> None:
    """Three micro-batches on two processes, and on four: somebody has none."""
    alone, together = reports_of(folder, "world1", 1), reports_of(folder, f"world{world}", world)
    assert len(alone) == STEPS
    for one, other in zip(alone, together, strict=True):
        assert other == pytest.approx(one, rel=2e-5)
        assert other[2:] == one[2:]
    assert_close(folder, "world1", f"world{world}", STEPS)


def test_the_cut_into_micro_batches_does_not_matter(folder: Path) -> None:
    whole, cut = reports_of(folder, "whole", 1), reports_of(folder, "world4", 4)
    assert [one[0] for one in cut] == pytest.approx([one[0] for one in whole], rel=2e-5)


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("second", STEPS),
        ("text", 1),
        ("first", 2),
        ("steps", STEPS),
    ],
)
def test_a_process_without_pictures_keeps_up(folder: Path, name: str, steps: int) -> None:
    """One process has text only; nobody has a picture, ever or after the first step; in stage 1, one has no
    examples.
    """
    one, two = reports_of(folder, f"{name}1", 1), reports_of(folder, f"{name}2", 2)
    assert len(two) == steps
    assert [report[0] for report in two] == pytest.approx([report[0] for report in one], rel=2e-5)
    assert_close(folder, f"{name}1", f"{name}2", steps)


def test_token_embeddings_train_the_same_on_two(folder: Path) -> None:
    assert_close(folder, "embeddings1", "embeddings2", STEPS)
    moved, kept = (
        read_tensors(folder / name / f"step-{STEPS:06d}/model.safetensors")["llm.model.embed_tokens.weight"]
        for name in ("embeddings2", "second2")
    )
    assert not torch.equal(moved, kept)


def test_modules_that_nobody_ran_stay_as_they_were(folder: Path) -> None:
    """In steps of text alone their moments rest, too."""
    for world in (1, 2):
        seen, unseen = (
            read_tensors(folder / f"steps{world}/step-{step:06d}/model.safetensors") for step in (2, 3)
        )
        still = {name.partition(".")[0] for name in seen if torch.equal(seen[name], unseen[name])}
        moved = {name.partition(".")[0] for name in seen if not torch.equal(seen[name], unseen[name])}
        assert {"projector", "compressor", "prefusion"} <= still
        assert moved == {"llm"}


@pytest.mark.skipif(not HAS_PEFT, reason="needs peft")
def test_adapters_train_the_same_on_two(folder: Path) -> None:
    """One process has text only and, in the last round, no examples; the language model below is frozen."""
    one, two = reports_of(folder, "lora1", 1), reports_of(folder, "lora2", 2)
    assert [report[:2] for report in two] == [pytest.approx(report[:2], rel=2e-5) for report in one]
    assert_close(folder, "lora1", "lora2", STEPS)
    begun, trained = (
        read_tensors(folder / f"lora2/step-{step:06d}/model.safetensors") for step in (2, STEPS)
    )
    moved = {name for name, weight in trained.items() if not torch.equal(weight, begun[name])}
    assert {name for name in moved if name.startswith("llm.")} == {
        name for name in trained if "lora_" in name
    }


def test_a_run_goes_on_with_fewer_processes(folder: Path) -> None:
    resumed = reports_of(folder, "fewer", 2)
    straight = reports_of(folder, "world4", 4)[2:]
    assert len(resumed) == STEPS - 2
    for one, other in zip(straight, resumed, strict=True):
        assert other == pytest.approx(one, rel=2e-5)
    assert_close(folder, "world4", "fewer", STEPS)


def test_a_run_resumed_by_as_many_is_the_same_to_the_bit(folder: Path) -> None:
    for name in ("model.safetensors", "optimizer.safetensors"):
        there, here = (read_tensors(folder / run / f"step-{STEPS:06d}" / name) for run in ("world2", "again"))
        assert there.keys() == here.keys()
        assert all(torch.equal(there[key], here[key]) for key in there)


def test_what_one_cannot_learn_stops_all_and_all_name_it(folder: Path) -> None:
    """Example 9 is in the second step, in the second of its micro-batches: that of the other process."""
    said = [json.loads((folder / f"poisoned/said-{rank}.json").read_text()) for rank in range(2)]
    assert said[0] == said[1]
    assert "with examples e8, e9; lower" in said[0]
    assert {path.name for path in (folder / "poisoned").glob("step-*")} == {"step-000001"}


@pytest.mark.parametrize(
    ("name", "differences", "kept"),
    [
        ("apart", ["the step of the start is 2 on rank 0 and 0 on rank 1", "and None on rank 1"], 1),
        ("newer", [f"manifest_sha256 is '{'m' * 64}' on rank 0 and '{'n' * 64}' on rank 1"], 0),
    ],
)
def test_processes_that_begin_apart_do_not_begin(
    folder: Path, name: str, differences: list[str], kept: int
) -> None:
    """An empty `out` on one machine; a manifest that was published between two starts."""
    said = [json.loads((folder / name / f"said-{rank}.json").read_text()) for rank in range(2)]
    assert said[0] == said[1]
    assert said[0].startswith("the processes do not begin alike: ")
    assert said[0].count("on rank 1") == len(differences)
    assert all(difference in said[0] for difference in differences)
    assert len(list((folder / name).rglob("step-*"))) == kept


class TwoOfTheSame(Processes):
    """Another process that tells what this one told at first."""

    heard: tuple[str, ...] = ()

    def collect(self, words: Sequence[str]) -> list[str]:
        type(self).heard = self.heard or tuple(words)
        return [*self.heard, *words]


def test_a_configuration_that_differs_is_named(tmp_path: Path) -> None:
    """All fields but places and threads count: those that say when processes meet do, too."""
    config = tiny_config(tmp_path, tmp_path / "a")
    processes = TwoOfTheSame(0, 2)
    check_agreement(processes, None, config, IDENTITY)
    elsewhere = tiny_config(tmp_path, tmp_path / "b", data={"threads": 3}, run={"threads": 2})
    check_agreement(processes, None, elsewhere, IDENTITY)
    often = tiny_config(tmp_path, tmp_path / "a", run={"save_every": 1})
    with pytest.raises(MismatchError, match=r"alike: run\.save_every is 4 on rank 0 and 1 on rank 1"):
        check_agreement(processes, None, often, IDENTITY)


def test_many_ranks_are_named_by_the_first_of_them() -> None:
    told = [{"step": 0 if rank == 3 else 5, "same": "a"} for rank in range(9)]
    assert list_differences(told) == ["step is 5 on ranks 0, 1, 2, 4 and 4 more and 0 on rank 3"]
    assert list_differences(told[:3]) == []


def test_alone_there_is_nobody_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ALONE.add([1.5, 2.0]) == [1.5, 2.0]
    assert ALONE.largest([3.0]) == [3.0]
    assert ALONE.collect(["e1"]) == ["e1"]
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with join_processes("cpu") as processes:
        assert processes == ALONE


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"optimizer": {"kind": "adafactor"}}, "2 processes train; write adamw"),
        ({"model": {"lora": {"base": "nf4"}}}, "nf4` is for one GPU, and 2 processes train.*write plain"),
    ],
)
def test_what_is_for_one_process(
    sections: dict[str, dict[str, object]], message: str, tmp_path: Path
) -> None:
    llm = save_language_model(tmp_path / "llm")
    model = assemble(tiny_config(llm, tmp_path), WIDTH).model
    config = tiny_config(llm, tmp_path, **sections)
    with pytest.raises(ConfigError, match=message):
        shard_model(model, config, Processes(0, 2), torch.device("cpu"))
