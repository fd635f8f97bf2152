"""`onetoken plan` of a training configuration: what it will hold, or why it is refused."""

import pytest
from small_job import run_onetoken, write_yaml
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
