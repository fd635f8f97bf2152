"""The counted FLOPs against torch's own counter, on the modules that are trained."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from operators.compressor import Compressor
from operators.costs.flops import count_compressor, count_language_model, count_projector
from operators.costs.roofline import V100, estimate_prefill, list_layer
from operators.costs.shapes import LanguageShape, VisionShape
from operators.projector import Projector

LLM = LanguageShape(
    name="tiny",
    layers=3,
    width=64,
    inner_width=160,
    heads=8,
    key_value_heads=2,
    vocabulary=100,
    context=512,
)
TOWER = VisionShape(layers=2, width=32, inner_width=64, patches=36, patch_values=48)


def count(function, *arguments, **named) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        function(*arguments, **named)
    return counter.get_total_flops()


def test_language_model() -> None:
    config = LlamaConfig(
        vocab_size=LLM.vocabulary,
        hidden_size=LLM.width,
        intermediate_size=LLM.inner_width,
        num_hidden_layers=LLM.layers,
        num_attention_heads=LLM.heads,
        num_key_value_heads=LLM.key_value_heads,
        attn_implementation="eager",
    )
    llm = LlamaForCausalLM(config).eval()
    found = count(llm, torch.arange(21)[None])
    rotary = 2 * 21 * LLM.width // LLM.heads // 2
    assert found - count_language_model(LLM, 21).total in (0, rotary)


def test_projector() -> None:
    found = count(Projector(TOWER.width, LLM.width), torch.randn(1, 36, TOWER.width))
    assert found == count_projector(LLM, TOWER, 36).total


def test_compressor() -> None:
    module = Compressor(TOWER.width, 2, 4, "published").eval()
    matrices = count(module, torch.randn(1, 1, TOWER.patches, TOWER.width))
    products = 2 * 2 * 4 * TOWER.patches * TOWER.width
    assert matrices + products == count_compressor(TOWER, TOWER.patches, 4).total, "CPUs fuse attention"


def test_a_roofline_is_the_longer_of_two_times() -> None:
    """By hand: one operator after the other."""
    seconds = 0.0
    for one in list_layer(LLM, 5):
        moved = 2 * (one.loaded_weights + one.loaded + one.stored + one.cached)
        seconds += LLM.layers * max(one.operations / 112e12, moved / 900e9)
    head = max(2 * 64 * 100 / 112e12, 2 * (64 * 100 + 64 + 100) / 900e9)
    assert estimate_prefill(LLM, 5, V100, 16).seconds == pytest.approx(seconds + head)


def test_fewer_bits_move_less_and_count_the_same() -> None:
    half, quarter = (estimate_prefill(LLM, 50, V100, bits) for bits in (16, 4))
    assert quarter.moved_bytes == pytest.approx(half.moved_bytes / 4)
    assert quarter.operations == half.operations
