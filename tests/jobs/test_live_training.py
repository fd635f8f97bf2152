"""Training from media, the encoder in the loop, against training from the cache."""

from pathlib import Path

import pytest
import yaml
from small_job import SmallJob, run_onetoken, write_job, write_yaml

from jobs import comparing
from jobs.training import run_training
from pipelines.train.metrics import METRICS_NAME, MetricsFile, StepReport, read_reports
from schemas.configuration import build
from schemas.errors import ConfigError, ConflictError, MismatchError, WorkError
from schemas.training import TrainConfig

HD = {"views": "all", "sources": {"pictures": 1.0}}
NUM_STEPS = 3


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> SmallJob:
    """A small corpus whose codec rounds to fp16 and does nothing else."""
    written = write_job(Path(tmp_path_factory.mktemp("live")))
    recipe = yaml.safe_load(written.recipe.read_text()) | {"codec": "fp16"}
    outcome = run_onetoken("build", write_yaml(written.recipe, recipe), "--corpus", written.corpus)
    assert outcome.status == 0, outcome.err
    return written


def write_config(job: SmallJob, folder: Path, number: int, **sections: object) -> Path:
    config = yaml.safe_load(job.stage(number).read_text())
    config["model"].pop("start_from", None)
    data = config["data"] | {"batch": 4} | dict(sections.pop("data", {}))
    run = config["run"] | {"steps": NUM_STEPS}
    folder.mkdir(parents=True, exist_ok=True)
    changed = config | {"data": data, "run": run, "out": str(folder / "out")} | sections
    return write_yaml(folder / "config.yaml", changed)


def read_losses(folder: Path) -> list[float]:
    return [report.loss for report in read_reports(folder)]


@pytest.mark.parametrize(("number", "data"), [(1, {}), (2, {}), (2, HD)], ids=["stage1", "stage2", "hd"])
def test_losses_are_those_of_the_cache(job: SmallJob, tmp_path: Path, number: int, data) -> None:
    losses = []
    tars = sorted((job.corpus / "features").glob("*/*.tar"))
    assert tars
    for name, live in (("cached", None), ("live", {})):
        config = write_config(job, tmp_path / name, number, data=data, live=live)
        hidden = tars if live is not None else []
        for tar in hidden:
            tar.rename(tar.with_suffix(".hidden"))
        try:
            outcome = run_onetoken("train", config)
        finally:
            for tar in hidden:
                tar.with_suffix(".hidden").rename(tar)
        assert outcome.status == 0, outcome.err
        assert ("live, the encoder in the loop" in outcome.err) == (live is not None)
        losses.append(read_losses(tmp_path / name / "out"))
    cached, live_losses = losses
    assert len(cached) == NUM_STEPS
    assert len(set(cached)) == NUM_STEPS
    assert live_losses == cached


def train_here(config: TrainConfig) -> None:
    with comparing.Reporter() as reporter:
        run_training(config, reporter, resume=False)


def test_one_command_compares(job: SmallJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "train_apart", train_here)
    config = write_config(job, tmp_path, 2)
    arguments = ("analyze", "live", config, "--steps", 2, "--out", tmp_path / "both")
    outcome = run_onetoken(*arguments, "--json")
    assert outcome.status == 0, outcome.err
    found = outcome.values
    assert found["is_equal"]
    assert found["largest_difference"] == 0
    assert found["cached"]["losses"] == read_losses(tmp_path / "both/cached")
    for run in (found["cached"], found["live"]):
        assert len(run["losses"]) == 2
        assert run["step_s"] > run["wait_s"] >= 0
        assert run["memory_bytes"] > 2**20
    again = run_onetoken(*arguments)
    assert again.status == ConflictError.exit_status
    assert "holds files; name a new folder" in again.said


def write_metrics(folder: Path, losses: list[float], step_s: float, memory_bytes: int) -> Path:
    folder.mkdir()
    file = MetricsFile(folder / METRICS_NAME, 0)
    for step, loss in enumerate(losses, 1):
        file.append(make_report(step, loss=loss, step_s=step_s, wait_s=step_s / 4, memory_bytes=memory_bytes))
    return folder


def make_report(step: int, *, loss: float, step_s: float, wait_s: float, memory_bytes: int) -> StepReport:
    return StepReport(
        step=step,
        epoch=0,
        loss=loss,
        grad_norm=1.0,
        rates={},
        num_examples=2,
        num_tokens=20,
        num_labels=4,
        step_s=step_s,
        data_wait_s=wait_s,
        memory_bytes=memory_bytes,
        mfu=None,
    )


def test_a_difference_is_told(tmp_path: Path) -> None:
    from pipelines.analyze.two_runs import compare_runs

    cached = write_metrics(tmp_path / "cached", [3.0, 2.0], 0.5, 2**20)
    live = write_metrics(tmp_path / "live", [3.0, 2.25], 1.5, 3 * 2**20)
    comparison = compare_runs(cached, live)
    assert not comparison.is_equal
    assert comparison.largest_difference == 0.25
    lines = comparing.in_words(comparison)
    assert lines[2].split() == ["live", "3.0000", "2.2500", "1.500", "0.375", "3.0", "MiB"]
    assert lines[-1] == "2 steps: losses differ by 0.25 at most; a live step takes 3.00 times a cached one"
    shorter = write_metrics(tmp_path / "shorter", [3.0], 1.5, 2**20)
    with pytest.raises(MismatchError, match="hold 2 and 1 losses"):
        compare_runs(cached, shorter)


def test_one_encoder_serves_one_process(job: SmallJob, tmp_path: Path) -> None:
    config = yaml.safe_load(write_config(job, tmp_path, 2, live={}).read_text())
    config["data"]["workers"] = 1
    with pytest.raises(ConfigError, match=r"leave `data.workers` out"):
        build(config, TrainConfig, "config")


@pytest.mark.slow
def test_each_run_has_a_process_of_its_own(job: SmallJob, tmp_path: Path) -> None:
    config = write_config(job, tmp_path, 2)
    outcome = run_onetoken("analyze", "live", config, "--steps", 2)
    assert outcome.status == 0, outcome.err
    assert "all losses are equal to the last bit" in outcome.out
    broken = build(
        yaml.safe_load(config.read_text()) | {"corpus": str(tmp_path / "none")}, TrainConfig, "config"
    )
    with pytest.raises(Exception, match="none") as error:
        comparing.train_apart(broken)
    assert not isinstance(error.value, WorkError)
