"""Runs that fail, die or are done already; the trainers here train nothing."""

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pyarrow.parquet
import pytest

import pipelines.sweep.run
from infra.ray_cluster import ray_cluster
from pipelines.engine import Engine, SerialEngine
from pipelines.process_engine import ProcessesEngine
from pipelines.ray_engine import RayEngine
from pipelines.sweep.run import ERROR_NAME, VariantWorker, run_variants
from pipelines.sweep.store import (
    OUTCOME_NAME,
    check_same_corpus,
    list_rows,
    locked,
    read_outcome,
    read_table,
    write_table,
)
from schemas.configuration import build
from schemas.errors import (
    ConflictError,
    CorruptError,
    DivergedError,
    MismatchError,
    NotFoundError,
    StorageUnavailableError,
)
from schemas.sweep import Outcome, SweepResources, SweepRow, SweepTable, Variant
from schemas.training import TrainConfig


def make_variant(folder: Path, name: str) -> Variant:
    value = {"corpus": "c", "stage": 2, "out": str(folder / name), "model": {"llm": name}}
    config = build(value, TrainConfig, "test")
    return Variant(
        name=name,
        changes={"model.llm": name},
        config=config,
        spec="0" * 16,
        manifest_sha256="0" * 64,
        held_out=("image-1",),
    )


def make_outcome(variant: Variant) -> Outcome:
    return Outcome(
        steps=4,
        train_loss=1.0,
        loss=float(len(variant.name)),
        accuracy=None,
        sources={},
        vision_tokens=1,
        flops=1.5e9,
        predicted_bytes=10,
        measured_bytes=9,
        hours=0.5,
        checkpoint=None,
    )


def train(variant: Variant) -> Outcome:
    """Leaves a mark for every try; the name says what happens."""
    folder = Path(variant.config.out)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "tries").open("a") as tries:
        tries.write("x")
    if variant.name == "kills":
        os._exit(9)
    if variant.name == "diverges":
        raise DivergedError("the loss of a batch is nan")
    if variant.name == "breaks":
        raise RuntimeError("CUDA out of memory")
    if variant.name == "is cut off" or (variant.name == "is cut off once" and count_tries(folder) == 1):
        raise StorageUnavailableError("no answer")
    return make_outcome(variant)


def count_tries(folder: Path) -> int:
    return len((folder / "tries").read_text())


def run_all(folder: Path, names: list[str], engine=None) -> dict[str, SweepRow]:
    variants = [make_variant(folder, name) for name in names]
    rows = dict(run_variants(variants, VariantWorker(train), engine or SerialEngine(), SweepResources()))
    assert [rows[place].name for place in range(len(names))] == names
    return {row.name: row for row in rows.values()}


def test_a_run_that_raises_keeps_its_error_and_the_others_go_on(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(pipelines.sweep.run, "draw_pause_s", lambda _: 0.0)
    rows = run_all(tmp_path, ["diverges", "breaks", "is cut off", "is cut off once", "is well"])
    errors = {name: row.error and (row.error.kind, row.error.message) for name, row in rows.items()}
    assert errors == {
        "diverges": ("DivergedError", "the loss of a batch is nan"),
        "breaks": ("RuntimeError", "CUDA out of memory"),
        "is cut off": ("StorageUnavailableError", "no answer"),
        "is cut off once": None,
        "is well": None,
    }
    assert [row.state for row in rows.values()] == ["failed"] * 3 + ["finished"] * 2
    assert [count_tries(tmp_path / name) for name in rows] == [1, 1, 4, 2, 1]
    assert "in train" in (tmp_path / "breaks" / ERROR_NAME).read_text()


def test_what_is_finished_is_not_trained_again_and_what_failed_is(tmp_path) -> None:
    names = ["diverges", "is well"]
    first = run_all(tmp_path, names)
    assert run_all(tmp_path, [*names, "is new"]) == first | {
        "is new": SweepRow(
            name="is new",
            digest=make_variant(tmp_path, "is new").digest,
            changes={"model.llm": "is new"},
            outcome=make_outcome(make_variant(tmp_path, "is new")),
        )
    }
    assert [count_tries(tmp_path / name) for name in (*names, "is new")] == [2, 1, 1]


def processes() -> AbstractContextManager[Engine]:
    return ProcessesEngine(1)


@contextmanager
def ray() -> Iterator[Engine]:
    with ray_cluster(num_cpus=2):
        from ray import cloudpickle

        cloudpickle.register_pickle_by_value(sys.modules[__name__])
        yield RayEngine()


@pytest.mark.parametrize(
    "open_engine", [processes, pytest.param(ray, marks=[pytest.mark.slow, pytest.mark.ray])]
)
def test_a_run_that_kills_its_workers_does_not_end_the_sweep(tmp_path, open_engine) -> None:
    with open_engine() as engine:
        rows = run_all(tmp_path, ["kills", "is well"], engine)
    assert rows["kills"].error is not None
    assert rows["kills"].error.kind == "WorkerLostError"
    assert [row.state for row in rows.values()] == ["failed", "finished"]
    assert [count_tries(tmp_path / name) for name in rows] == [4, 1]


def test_a_digest_names_what_decides_the_numbers(tmp_path) -> None:
    one = make_variant(tmp_path, "one")
    elsewhere = one.config.model_copy(update={"out": "elsewhere"})
    assert one.model_copy(update={"config": elsewhere, "name": "two"}).digest == one.digest
    assert one.model_copy(update={"spec": "1" * 16}).digest != one.digest
    assert one.model_copy(update={"held_out": ("image-0",)}).digest != one.digest
    assert make_variant(tmp_path, "two").digest != one.digest


def make_table(folder: Path, manifest: str = "a" * 64) -> SweepTable:
    rows = run_all(folder, ["is well", "diverges"])
    return SweepTable(corpus="c", manifest_sha256=manifest, held_out=("image-1",), rows=tuple(rows.values()))


def test_a_table_comes_back_as_it_was(tmp_path) -> None:
    table = make_table(tmp_path)
    write_table(tmp_path, table)
    assert read_table(tmp_path) == table
    rows = pyarrow.parquet.read_table(tmp_path / "table.parquet").to_pylist()
    assert rows == list_rows(table)
    assert [(row["variant"], row["state"], row["loss"], row["error"]) for row in rows] == [
        ("is well", "finished", 7.0, None),
        ("diverges", "failed", None, "DivergedError"),
    ]


def test_runs_over_two_states_of_a_corpus_do_not_mix(tmp_path) -> None:
    table = make_table(tmp_path)
    check_same_corpus(tmp_path, table)
    write_table(tmp_path, table)
    check_same_corpus(tmp_path, table)
    with pytest.raises(MismatchError, match="choose another `out`"):
        check_same_corpus(tmp_path, table.model_copy(update={"manifest_sha256": "b" * 64}))


def test_a_damaged_file_is_told_and_a_missing_one_too(tmp_path) -> None:
    with pytest.raises(NotFoundError, match="no sweep at"):
        read_table(tmp_path)
    run_all(tmp_path, ["is well"])
    (tmp_path / "is well" / OUTCOME_NAME).write_text("{")
    with pytest.raises(CorruptError, match=OUTCOME_NAME):
        read_outcome(tmp_path / "is well")


def test_one_sweep_works_in_a_folder_at_a_time(tmp_path) -> None:
    folder = tmp_path / "new"
    with locked(folder), pytest.raises(ConflictError, match="at work"), locked(folder):
        pass
    with locked(folder):
        pass
