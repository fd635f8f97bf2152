"""Sizes of the real models, built without memory, against the sums of their published configurations."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from pipelines.train.model import build_model
from pipelines.train.shape import ModelShape

VICUNA_7B = LlamaConfig(vocab_size=32000)
LLAMA_8B = LlamaConfig(vocab_size=128256, intermediate_size=14336, num_key_value_heads=8)


@pytest.mark.parametrize(
    ("config", "expected_total", "expected_embeddings"),
    [(VICUNA_7B, 7_573_132_288, 131_072_000), (LLAMA_8B, 8_927_892_480, 525_336_576)],
    ids=["vicuna-7b", "llama-3.1-8b"],
)
def test_stage_two(config: LlamaConfig, expected_total: int, expected_embeddings: int) -> None:
    with torch.device("meta"):
        model = build_model(LlamaForCausalLM(config), ModelShape(), 2)
    total = sum(weight.numel() for weight in model.parameters())
    trainable = sum(weight.numel() for group in model.parameter_groups() for _, weight in group.parameters)
    assert total == expected_total
    assert trainable == expected_total - expected_embeddings


def test_stage_one_trains_the_projector_alone() -> None:
    with torch.device("meta"):
        model = build_model(LlamaForCausalLM(VICUNA_7B), ModelShape(), 1)
    (group,) = model.parameter_groups()
    assert sum(weight.numel() for _, weight in group.parameters) == 20_979_712


@pytest.mark.parametrize(("grid", "expected"), [(1, 4_203_520), (8, 4_268_032)])
def test_compressor(grid: int, expected: int) -> None:
    with torch.device("meta"):
        model = build_model(LlamaForCausalLM(VICUNA_7B), ModelShape(grid=grid), 2)
    assert model.compressor is not None
    assert sum(weight.numel() for weight in model.compressor.parameters()) == expected
