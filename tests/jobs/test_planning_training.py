"""`onetoken plan` of a training configuration: what it will hold, or why it is refused."""

import json

import pytest
from small_job import NUM_STEPS, run_onetoken, write_yaml
from transformers import LlamaConfig


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory):
    """A configuration alone: no weights are read."""
    folder = tmp_path_factory.mktemp("llm")
    LlamaConfig(
        vocab_size=5000, hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4
    ).save_pretrained(folder)
    return folder


def values_of(llm, **memory: object) -> dict[str, object]:
    return {
        "corpus": "nowhere",
        "stage": 2,
        "out": "nowhere",
        "model": {"llm": str(llm), "prefusion": {"layers": 1}},
        "data": {"batch": 8, "micro_batch": 2, "max_tokens": 64},
        "memory": memory,
    }


def test_a_run_that_fits_is_planned_in_words_and_values(llm, tmp_path) -> None:
    path = write_yaml(tmp_path / "c.yaml", values_of(llm, limit="4GiB"))
    outcome = run_onetoken("plan", path, "--json")
    assert outcome.status == 0, outcome.err
    values = outcome.values
    assert (values["examples"], values["tokens"], values["limit"]) == (2, 64, 4 * 2**30)
    assert values["weights"] + values["optimizer"] + values["passing"] == values["peak"]
    assert 0 < values["weights"] < values["peak"] < 4 * 2**30
    words = run_onetoken("plan", path, "--tokens", 16).out
    assert "2 examples of 16 text tokens" in words
    assert "peak 0." in words


def test_a_run_that_cannot_fit_is_refused_with_what_would(llm, tmp_path) -> None:
    free = run_onetoken("plan", write_yaml(tmp_path / "c.yaml", values_of(llm)), "--json").values
    limit = int(free["peak"] * 0.95)
    outcome = run_onetoken("plan", write_yaml(tmp_path / "d.yaml", values_of(llm, limit=limit)))
    assert outcome.status == 2
    assert "each of these would make it fit, the cheapest first" in " ".join(outcome.err.split())
    assert "micro_batch: 1" in outcome.err


def test_after_a_run_measured_stands_beside_planned(small_job, outcomes, tmp_path) -> None:
    """Of the features of its corpus; a step is planned for GPUs that are named, and for no others."""
    outcome = run_onetoken("plan", small_job.stage(2), "--json")
    assert outcome.status == 0, outcome.err
    reports = [json.loads(line) for line in (small_job.out(2) / "metrics.jsonl").read_text().splitlines()]
    actual = outcome.values["actual"]
    assert actual["logged_steps"] == len(reports) == NUM_STEPS
    assert actual["memory_bytes"] == max(report["memory_bytes"] for report in reports)
    assert actual["step_s"] == pytest.approx(sum(report["step_s"] for report in reports) / len(reports))
    assert outcome.values["step_s"] is None
    words = run_onetoken("plan", small_job.stage(2)).out
    assert "views of 576 x 16\n" in words
    assert "planned: unknown; name the GPUs with --cluster" in words
    steps = [
        run_onetoken("plan", small_job.stage(2), "--cluster", write_yaml(tmp_path / "c.yaml", spec), "--json")
        for spec in ({"gpu_tflops": 1.0, "training_share": 0.5}, {"gpu_tflops": 4.0, "training_share": 0.5})
    ]
    slow, fast = (step.values["step_s"] for step in steps)
    assert slow == pytest.approx(4 * fast)
    assert fast > 0


def test_before_a_run_nothing_is_said_to_be_measured(llm, tmp_path) -> None:
    path = write_yaml(tmp_path / "c.yaml", values_of(llm))
    outcome = run_onetoken("plan", path, "--json")
    assert outcome.values["actual"] is None
    words = run_onetoken("plan", path).out
    assert "as ViT-L/14-336 gives them: no corpus yet" in words
    assert "measured" not in words
