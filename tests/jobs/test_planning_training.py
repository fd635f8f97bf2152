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
        vocab_size=5000, hidden_size=256, intermediate_size=512, num_hidden_layers=1, num_attention_heads=4
    ).save_pretrained(folder)
    return folder


def values_of(llm, **memory: object) -> dict[str, object]:
    return {
        "corpus": "nowhere",
        "stage": 2,
        "out": "nowhere",
        "model": {"llm": str(llm), "prefusion": {"layers": 1}},
        "data": {"batch": 8, "micro_batch": 2, "max_tokens": 64, "frames": {"uniform": 2}},
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
    assert (values["frames"], values["views"], values["instruction"], values["workers"]) == (2, 1, 63, 1)
    assert values["assumed"] == [
        "one picture or clip an example, clips of 2 frames, as `data.frames` says: no corpus yet",
        "texts of up to 64 tokens, as `data.max_tokens` says, question or answer",
    ]
    words = run_onetoken("plan", path, "--tokens", 16).out
    assert "2 examples of 16 text tokens" in words
    assert "texts of 16 tokens, as asked for, half of them learned" in words
    assert "peak 0." in words


def test_without_a_bound_clips_are_as_long_as_recipes_make_them(llm, tmp_path) -> None:
    values = values_of(llm) | {"memory": {"frames_per_chunk": 512, "checkpoint_layers": True}}
    values["data"] = {"batch": 8, "micro_batch": 2, "max_tokens": 64}
    outcome = run_onetoken("plan", write_yaml(tmp_path / "c.yaml", values), "--json")
    assert outcome.values["frames"] == 512
    assert "clips of 512 frames, as many as recipes take; `data.frames` would bound them" in "".join(
        outcome.values["assumed"]
    )


def test_a_worker_of_several_holds_less_and_is_refused_alike(llm, tmp_path) -> None:
    alone, four = (
        run_onetoken("plan", write_yaml(tmp_path / "c.yaml", values_of(llm)), "--json", "--workers", count)
        for count in (1, 4)
    )
    assert four.status == 0, four.err
    assert four.values["workers"] == 4
    assert four.values["optimizer"] == pytest.approx(alone.values["optimizer"] / 4, rel=0.02)
    assert four.values["whole"] == alone.values["weights"]
    fitting = write_yaml(tmp_path / "d.yaml", values_of(llm, limit=four.values["peak"]))
    words = run_onetoken("plan", fitting, "--workers", 4)
    assert words.status == 0, words.err
    assert "on each of 4 workers" in words.out
    assert "an estimate, as layers may be gathered ahead of their use" in words.out
    small = write_yaml(tmp_path / "e.yaml", values_of(llm, limit=four.values["optimizer"]))
    refused = run_onetoken("plan", small, "--workers", 4)
    assert refused.status == 2
    said = " ".join(refused.err.split())
    assert "each of 4 workers needs" in said
    assert "a smaller `model.llm`, or more workers" in said


def test_workers_that_cannot_hold_it_never_meet(llm, tmp_path, monkeypatch) -> None:
    """Neither those of torchrun, who wait for the first one, nor a cluster."""
    path = write_yaml(tmp_path / "c.yaml", values_of(llm, limit="1MiB") | {"out": str(tmp_path / "run")})
    on_ray = run_onetoken("train", path, "--engine", "ray", "--workers", 2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    for outcome in (on_ray, run_onetoken("train", path)):
        assert outcome.status == 2
        assert "each of 2 workers needs" in " ".join(outcome.err.split())


def test_workers_and_tokens_are_no_settings_of_a_recipe(small_job) -> None:
    outcome = run_onetoken("plan", small_job.recipe, "--workers", 2)
    assert outcome.status == 2
    assert "changes nothing about the plan of a recipe" in outcome.err


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
    assert "assumed" not in words, "the run has counted all tokens"
    assert "counted      up to" in words
    assert "counted      texts of" in words
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
