"""`onetoken sweep`: variants of the small job's second stage, on engines, killed, broken, and in a table."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import yaml
from small_job import CUT_AT, NUM_STEPS, SmallJob, run_onetoken, write_yaml

import jobs.sweeping_variant
from infra.storage import open_storage
from pipelines.commit import load_manifest
from pipelines.sweep.store import read_table
from pipelines.train.checkpoint import open_checkpoint

pytestmark = pytest.mark.usefixtures("outcomes")
POOLED = {"model.reducer": {"name": "average", "tokens": 4}, "model.prefusion.layers": 0}
VARIANTS = {"mini": {}, "pooled": POOLED}


def write_sweep(job: SmallJob, folder: Path, **parts: object) -> Path:
    """Trains on clips, so that pictures are held out."""
    plan = load_manifest(open_storage(str(job.corpus))).plan
    document: dict[str, Any] = yaml.safe_load(job.stage(2).read_text())
    document["data"]["exclude"] = [leaf.name for leaf in plan if leaf.name.startswith("image")]
    document["data"]["cache"] = {"folder": str(folder / "cache"), "fetch": "shards"}
    base = write_yaml(folder / "base.yaml", document)
    sweep = {"base": str(base), "held_out": None, "out": str(folder / "sweep"), **parts}
    return write_yaml(folder / "sweep.yaml", sweep)


@pytest.fixture(scope="module")
def swept(small_job: SmallJob, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with a finished sweep, and what the command said."""
    folder = Path(tmp_path_factory.mktemp("swept"))
    outcome = run_onetoken("sweep", write_sweep(small_job, folder, variants=VARIANTS), "--json")
    assert outcome.status == 0, outcome.err
    return folder, outcome.values


def forbid_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("it is trained already")

    monkeypatch.setattr(jobs.sweeping_variant, "run_training", refuse)


def test_a_row_says_what_evaluate_says(swept) -> None:
    _, values = swept
    assert [row["name"] for row in values["rows"]] == list(VARIANTS)
    for row in values["rows"]:
        one = row["outcome"]
        again = run_onetoken("evaluate", one["checkpoint"], "--json")
        assert again.status == 0, again.err
        (pictures,) = again.values["sources"].values()
        assert (one["loss"], one["accuracy"]) == (pictures["loss"], pictures["accuracy"])
        assert one["sources"]["pictures"]["examples"] == pictures["examples"] > 0
        assert (one["steps"], row["error"]) == (NUM_STEPS, None)
        assert min(one["hours"], one["measured_bytes"], one["predicted_bytes"]) > 0
    mini, pooled = (row["outcome"] for row in values["rows"])
    assert (mini["vision_tokens"], pooled["vision_tokens"]) == (1, 4)
    assert mini["flops"] > pooled["flops"] > 0
    assert mini["loss"] != pooled["loss"]


def test_the_table_lies_in_the_folder_and_on_the_page(swept, small_job, tmp_path) -> None:
    folder, values = swept
    assert read_table(folder / "sweep").model_dump(mode="json") == values
    rows = pyarrow.parquet.read_table(folder / "sweep/table.parquet").to_pylist()
    assert [(row["variant"], row["loss"]) for row in rows] == [
        (row["name"], row["outcome"]["loss"]) for row in values["rows"]
    ]
    page = tmp_path / "page.html"
    arguments = ("--corpus", small_job.corpus, "--out", page, "--sweep", folder / "sweep", "--json")
    outcome = run_onetoken("report", *arguments)
    assert outcome.status == 0, outcome.err
    assert outcome.values["sweeps"] == 1
    text = page.read_text()
    assert 'id="sweeps"' in text
    assert f"<td>{rows[0]['loss']:.4f}</td>" in text
    assert run_onetoken("report", "--corpus", small_job.corpus, "--sweep", tmp_path).status == 1


def test_all_runs_share_the_cache_of_this_machine(swept, small_job) -> None:
    """One folder holds every shard once, and no run has shards of its own."""
    folder, _ = swept
    (features,) = load_manifest(open_storage(str(small_job.corpus))).features.values()
    shards = sorted(Path(shard.tar.path).name for shard in features.shards)
    assert sorted(path.name for path in (folder / "cache").iterdir() if path.is_file()) == shards
    assert not list((folder / "sweep").rglob("*.tar"))


def test_what_is_finished_is_not_trained_again(swept, small_job, monkeypatch) -> None:
    folder, values = swept
    forbid_training(monkeypatch)
    outcome = run_onetoken("sweep", write_sweep(small_job, folder, variants=VARIANTS), "--json")
    assert (outcome.status, outcome.values) == (0, values)


def test_a_killed_run_goes_on_from_its_checkpoint(swept, small_job, tmp_path) -> None:
    folder, values = swept
    shutil.copytree(folder, tmp_path / "killed")
    killed = tmp_path / "killed/sweep" / values["rows"][0]["digest"]
    (killed / "outcome.json").unlink()
    shutil.rmtree(killed / f"step-{NUM_STEPS:06d}")
    assert (killed / f"step-{CUT_AT:06d}").is_dir()
    path = write_sweep(small_job, tmp_path / "killed", variants={"mini": {}})
    outcome = run_onetoken("sweep", path, "--json")
    assert outcome.status == 0, outcome.err
    (row,) = outcome.values["rows"]
    before = values["rows"][0]["outcome"]
    assert row["digest"] == killed.name
    assert (row["outcome"]["loss"], row["outcome"]["sources"]) == (before["loss"], before["sources"])
    assert f"going on from {killed}" in (killed / "log.txt").read_text()


def test_a_failed_run_is_kept_and_the_others_are_trained(swept, small_job) -> None:
    folder, values = swept
    absent = {"model.start_from": "nowhere"}
    broken = {"broken": {"data.sources": {"nowhere": 1.0}}, "absent": absent, **VARIANTS}
    outcome = run_onetoken("sweep", write_sweep(small_job, folder, variants=broken))
    assert outcome.status == 1
    assert "2 of 4 runs failed: broken, absent" in outcome.said
    assert "broken: ConfigError" in outcome.out
    table = read_table(folder / "sweep")
    assert [row.state for row in table.rows] == ["failed", "failed", "finished", "finished"]
    assert table.rows[0].error is not None
    assert table.rows[0].error.kind == "ConfigError"
    assert "nowhere" in table.rows[0].error.message
    assert table.rows[1].error is not None
    assert table.rows[1].error.kind == "NotFoundError"
    assert [row.model_dump(mode="json") for row in table.rows[2:]] == values["rows"]


def test_one_spec_under_two_names_is_one_run(swept, small_job, tmp_path) -> None:
    _, values = swept
    spec = open_checkpoint(Path(values["rows"][0]["outcome"]["checkpoint"])).state.identity.spec.short_digest
    outcome = run_onetoken("sweep", write_sweep(small_job, tmp_path, grid={"spec": ["latest", spec]}))
    assert outcome.status == 2
    assert "trains the same as" in outcome.err
    assert not (tmp_path / "sweep").exists()


def test_a_sweep_that_holds_nothing_out_starts_nothing(small_job, tmp_path) -> None:
    path = write_sweep(small_job, tmp_path)
    base = yaml.safe_load((tmp_path / "base.yaml").read_text())
    base["data"]["exclude"] = []
    write_yaml(tmp_path / "base.yaml", base)
    outcome = run_onetoken("sweep", path)
    assert outcome.status == 2
    assert "nothing is held out" in outcome.err
    assert not (tmp_path / "sweep").exists()


def test_a_base_that_holds_out_a_share_of_its_own_starts_nothing(small_job, tmp_path) -> None:
    path = write_sweep(small_job, tmp_path)
    base = yaml.safe_load((tmp_path / "base.yaml").read_text())
    base["data"]["exclude"], base["run"]["held_out"] = [], 0.1
    write_yaml(tmp_path / "base.yaml", base)
    outcome = run_onetoken("sweep", path)
    assert outcome.status == 2
    assert "a sweep has `held_out` of its own" in outcome.said


def test_a_misspelled_path_starts_nothing(small_job, tmp_path) -> None:
    outcome = run_onetoken("sweep", write_sweep(small_job, tmp_path, grid={"model.griid": [1, 2]}))
    assert outcome.status == 2
    assert "unknown key 'model.griid', did you mean 'grid'?" in outcome.said
    assert not (tmp_path / "sweep").exists()


def test_one_shard_of_a_kind_cannot_be_held_out(small_job, tmp_path) -> None:
    outcome = run_onetoken("sweep", write_sweep(small_job, tmp_path, held_out=0.1))
    assert outcome.status == 2
    assert "held_out: null" in outcome.said


@pytest.mark.slow
@pytest.mark.ray
def test_ray_makes_the_table_that_one_process_makes(swept, small_job, tmp_path) -> None:
    """And a variant that fails there stops no other."""
    _, values = swept
    variants = {"broken": {"data.sources": {"nowhere": 1.0}}, **VARIANTS}
    path = write_sweep(small_job, tmp_path, variants=variants)
    outcome = run_onetoken("sweep", path, "--engine", "ray", "--workers", 2, "--json")
    assert outcome.status == 1
    assert "1 of 3 runs failed: broken" in outcome.said
    broken, *rows = outcome.values["rows"]
    assert (broken["outcome"], broken["error"]["kind"]) == (None, "ConfigError")
    for row, serial in zip(rows, values["rows"], strict=True):
        assert row["name"] == serial["name"]
        assert row["digest"] == serial["digest"]
        same = (
            "loss",
            "accuracy",
            "train_loss",
            "sources",
            "vision_tokens",
            "flops",
            "predicted_bytes",
            "steps",
        )
        assert {key: row["outcome"][key] for key in same} == {key: serial["outcome"][key] for key in same}
