"""Operations that torch counts against the formulas of the published tables."""

import pytest
from transformers import LlamaConfig

from operators.costs.flops import (
    FLOPS_PER_MAC,
    PrefillSetup,
    add_up,
    count_compressor,
    count_language_model,
    count_prefill,
)
from operators.costs.shapes import LanguageShape, VisionShape
from pipelines.sweep.costs import count_flops, count_step_flops
from pipelines.train.step_shape import StepShape
from schemas.configuration import build
from schemas.training import TrainConfig

LLM = LanguageShape(
    name="tiny", layers=2, width=32, inner_width=64, heads=4, key_value_heads=2, vocabulary=300, context=0
)
LLM_CONFIG = LlamaConfig(
    vocab_size=LLM.vocabulary,
    hidden_size=LLM.width,
    intermediate_size=LLM.inner_width,
    num_hidden_layers=LLM.layers,
    num_attention_heads=LLM.heads,
    num_key_value_heads=LLM.key_value_heads,
)
TOWER = VisionShape(layers=1, width=16, inner_width=64, patches=144, patch_values=588)
TEXT = 20


def configure(model: dict[str, object], memory: dict[str, object]) -> TrainConfig:
    value = {
        "corpus": "c",
        "out": "o",
        "stage": 2,
        "model": {"llm": "x", **model},
        "memory": memory,
        "run": {"dtype": "float32"},
    }
    return build(value, TrainConfig, "test")


def count(model: dict[str, object]) -> float:
    step = StepShape(num_examples=1, num_tokens=TEXT + 1, num_labels=1, num_patches=144, encoder_width=16)
    return count_flops(LLM_CONFIG, configure(model, {}), step)


def expect(setup: PrefillSetup) -> float:
    """The formula's parts, with an answer of one token behind the text and the logits of that alone."""
    parts = count_prefill(LLM, setup, TOWER)
    read = setup.vision_tokens + TEXT + 1
    parts["language model"] = count_language_model(LLM, read)
    del parts["encoder"]
    return add_up(parts).total - FLOPS_PER_MAC * (read - 1) * LLM.head_weights


@pytest.mark.parametrize("grid", [1, 2])
def test_llava_mini(grid: int) -> None:
    setup = PrefillSetup(
        text_tokens=TEXT, vision_tokens=grid**2, compressor_queries=grid**2, prefusion_layers=3
    )
    model = {"grid": grid, "prefusion": {"layers": 3}}
    assert count(model) == pytest.approx(expect(setup), rel=1e-3)
    assert count_compressor(TOWER, 144, 1).linear > 1e-3 * count(model)


def test_llava() -> None:
    setup = PrefillSetup(text_tokens=TEXT, vision_tokens=TOWER.patches)
    assert count({"reducer": "all", "prefusion": {"layers": 0}}) == expect(setup)


def test_fewer_tokens_cost_less() -> None:
    def pooled(tokens: int) -> float:
        return count({"reducer": {"name": "average", "tokens": tokens}, "prefusion": {"layers": 0}})

    assert pooled(4) < pooled(16) < count({"reducer": "all", "prefusion": {"layers": 0}})


def count_step(**memory: object) -> float:
    """Forward and backward, of two frames of two examples."""
    step = StepShape(
        num_examples=2, num_tokens=TEXT, num_labels=4, num_frames=2, num_patches=144, encoder_width=16
    )
    config = configure({"prefusion": {"layers": 2}}, memory)
    counted = count_step_flops(LLM_CONFIG, config, step)
    assert counted > 2 * count_flops(LLM_CONFIG, config, step)
    return counted


def test_what_is_recomputed_counts() -> None:
    """All but the head once more; of frames in chunks what stands before the language model twice."""
    plain, layers = count_step(), count_step(checkpoint_layers=True)
    chunks = count_step(checkpoint_layers=True, frames_per_chunk=1)
    assert 1.25 * plain < layers < 1.4 * plain
    assert layers < chunks < plain + 2.2 * (layers - plain)
    assert chunks == count_step(checkpoint_layers=True, frames_per_chunk=3), "whatever their size"
