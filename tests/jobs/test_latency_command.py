"""`onetoken analyze latency`: what it says of a checkpoint, a configuration and a shape; never how fast."""

import pyarrow.parquet as pq
import pytest
import yaml
from small_job import run_onetoken, write_yaml

from pipelines.analyze import latency_subject
from schemas.errors import ConfigError


@pytest.mark.parametrize("form", ["words", "json"])
def test_a_checkpoint_is_timed(small_job, outcomes, tmp_path, form: str) -> None:
    options = ("--rounds", 2, "--text", 7, "--device", "cpu")
    asked = ("analyze", "latency", small_job.out(2), *options, "--out", tmp_path)
    if form == "words":
        outcome = run_onetoken(*asked)
        assert outcome.status == 0, outcome.err
        for word in ("median ms", "live takes", "all patches takes", "1 layers x 16", "float32 on CPU"):
            assert word in outcome.out
        return
    values = run_onetoken(*asked, "--json").values
    assert values["prompt_tokens"] == {"cached": 8, "live": 8, "all patches": 576 + 7}
    assert (values["shapes"]["patches"], values["shapes"]["views"]) == (576, 1)
    assert pq.read_table(tmp_path / "latency.parquet").to_pylist() == values["rounds"]
    assert pq.read_table(tmp_path / "latency_ratios.parquet").to_pylist() == values["ratios"]
    assert [(row["slower"], row["faster"]) for row in values["ratios"]] == [
        ("live", "cached"),
        ("all patches", "live"),
        ("all patches", "cached"),
    ]
    assert len(values["rounds"]) == 2 * 3
    for row in values["rounds"]:
        parts = [row[name] for name in ("see_s", "fuse_s", "prefill_s", "first_token_s")]
        assert min(parts) >= 0
        assert row["total_s"] == pytest.approx(sum(parts))


def test_a_configuration_is_timed_by_its_shapes(small_job, tmp_path, monkeypatch) -> None:
    pair = latency_subject.find_pair("eighth")
    narrow = latency_subject.VisionShape(
        layers=2, width=64, inner_width=64, patches=16, patch_values=pair.tower.patch_values
    )
    monkeypatch.setattr(latency_subject, "CLIP_L_336", narrow)
    document = yaml.safe_load(small_job.stage(2).read_text())
    document["data"]["views"] = "all"
    document["model"] = {"llm": document["model"]["llm"], "reducer": "prumerge"}
    outcome = run_onetoken(
        *("analyze", "latency", write_yaml(tmp_path / "c.yaml", document), "--rounds", 1, "--json"),
        *("--device", "cpu"),
    )
    assert outcome.status == 0, outcome.err
    values = outcome.values
    assert (values["shapes"]["views"], values["shapes"]["reducer"]) == (5, "prumerge")
    assert values["prompt_tokens"]["all patches"] == 5 * 16 + 43
    assert 5 + 43 <= values["prompt_tokens"]["live"] <= 5 * 4 + 43


def test_what_cannot_be_timed_is_told(small_job, outcomes, tmp_path) -> None:
    for arguments, words in (
        (("nothing",), "eighth"),
        ((small_job.stage(2), "--hd"), "data: {views: all}"),
        ((small_job.stage(2), "--reducer", "prumerge"), "model: {reducer"),
        ((small_job.out(2), "--reducer", "prumerge"), "cannot be taken out"),
    ):
        outcome = run_onetoken("analyze", "latency", *arguments)
        assert outcome.status == ConfigError.exit_status, arguments
        assert words in outcome.said
