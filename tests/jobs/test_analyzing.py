"""`onetoken analyze`: tables in words and as JSON."""

import json

import pyarrow.parquet as pq
import pytest
from PIL import Image
from small_job import run_onetoken

from pipelines.analyze.line_chart import SIZE_PX


@pytest.mark.parametrize(("verb", "rows"), [("flops", 26), ("memory", 4), ("roofline", 32)])
def test_tables_tell_each_deviation(verb: str, rows: int) -> None:
    outcome = run_onetoken("analyze", verb, "--json")
    assert outcome.status == 0
    figures = outcome.values["figures"]
    assert len(figures) == rows
    for figure in figures:
        if figure["published"] is None:
            assert figure["deviation"] is None
        else:
            assert figure["deviation"] == pytest.approx(figure["derived"] / figure["published"] - 1)
            assert abs(figure["deviation"]) < (0.02 if verb == "roofline" else 0.006) or figure["note"]
    assert bool(outcome.values["setup"]) == (verb == "roofline")


def test_another_model_has_nothing_published(tmp_path) -> None:
    config = {
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "vocab_size": 100,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    for verb in ("flops", "memory"):
        figures = run_onetoken("analyze", verb, "--llm", tmp_path, "--json").values["figures"]
        assert all(figure["published"] is None for figure in figures)
        assert all(not figure["note"] for figure in figures)
        assert all(figure["derived"] > 0 for figure in figures if figure["quantity"] != "% saved")


def test_no_such_model_is_told(tmp_path) -> None:
    outcome = run_onetoken("analyze", "flops", "--llm", tmp_path / "nothing")
    assert outcome.status == 2
    assert "vicuna-7b" in outcome.said


def test_attention_is_written_down(small_job, outcomes, tmp_path) -> None:
    outcome = run_onetoken(
        "analyze", "attention", small_job.out(2), "--out", tmp_path, "--examples", 3, "--layers", 1, "--json"
    )
    assert outcome.status == 0, outcome.err
    rows = pq.read_table(tmp_path / "attention.parquet").to_pylist()
    assert rows == outcome.values["layers"]
    assert {row["looking"] for row in rows} == {"instruction", "vision", "response"}
    for row in rows:
        assert row["instruction"] + row["vision"] + row["response"] == pytest.approx(1, abs=1e-4)
    dropped = pq.read_table(tmp_path / "dropped.parquet").to_pylist()
    assert dropped[0]["layers"] == "none"
    assert dropped[1]["layers"] == "1-1"
    for name in ("attention.png", "entropy.png", "dropped.png"):
        with Image.open(tmp_path / name) as image:
            assert len(set(image.get_flattened_data())) > 3
            assert image.size == SIZE_PX
    assert len(outcome.values["files"]) == 5
