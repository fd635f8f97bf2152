"""Outputs, loss and gradients of the published LLaVA-Mini modules; a formula gives weights and inputs.

Compressed tokens are compared by the root of the mean square: their largest rounding error in fp32 is 2e-6 to
4e-6 on both sides (the stored values are as far from this model run in fp64), which a bound on the maximum of
2e-6 cannot tell from a fault. Everything else keeps that bound.
"""

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from operators.batch import IGNORED_LABEL, ModelBatch
from pipelines.train.foreign import PARTS, load_foreign
from pipelines.train.model import OneTokenModel, build_model
from pipelines.train.published import own_name, published_name, published_weights
from pipelines.train.shape import ModelShape

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "llava_mini_reference.npz"
CASES = {"c1": (1, 1), "c2": (2, 1), "hd_c8": (8, 5), "hd_c1": (1, 5)}
IMAGE_PLACE = 3


def draw(name: str, shape: tuple[int, ...], scale: float) -> torch.Tensor:
    """The formula that both sides draw weights and inputs from."""
    generator = np.random.Generator(np.random.Philox(zlib.crc32(name.encode())))
    return torch.from_numpy((generator.standard_normal(shape) * scale).astype(np.float32))


def draw_weights(model: OneTokenModel) -> None:
    norms = ("norm.weight", "layernorm.weight", "ln_q.weight", "ln_kv.weight")
    weights = {
        key: draw(key, tuple(tensor.shape), 0.05) + (1.0 if key.endswith(norms) else 0.0)
        for key, tensor in published_weights(model).items()
        if key != "model.compressor.pos_embed"
    }
    assert load_foreign(model, weights, "the formula") == PARTS


@dataclass(frozen=True)
class Case:
    tag: str
    model: OneTokenModel
    batch: ModelBatch
    expected: dict[str, np.ndarray]


def golden_batch(tag: str, views: int, expected: dict[str, np.ndarray]) -> ModelBatch:
    token_ids = torch.from_numpy(expected["input_ids"]).long()
    labels = torch.from_numpy(expected["labels"]).long()
    return ModelBatch(
        token_ids=token_ids,
        labels=labels,
        attention_mask=token_ids != 0,
        fuse_mask=(labels == IGNORED_LABEL) & (token_ids > 0),
        frames=draw(f"{tag}/features", (3, views, 576, 1024), 1.0),
        frames_per_medium=(1, 1, 1),
        media_per_example=(1, 1, 1),
        example_ids=("a", "b", "c"),
    )


@pytest.fixture(scope="module", params=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    tag = request.param
    grid, views = CASES[tag]
    with np.load(GOLDEN, allow_pickle=False) as golden:
        expected = {
            name.removeprefix(f"{tag}/"): golden[name] for name in golden.files if name.startswith(f"{tag}/")
        }
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
    )
    model = build_model(LlamaForCausalLM(config), ModelShape(grid=grid, num_prefusion_layers=2), 2).eval()
    draw_weights(model)
    return Case(tag, model, golden_batch(tag, views, expected), expected)


def assert_compressed_agree(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    difference = found.astype(np.float64) - expected
    assert np.sqrt(np.mean(difference**2)) < 2e-6
    assert np.abs(difference).max() < 1e-5


def test_compressed_and_text(case: Case) -> None:
    tokens = case.model.shape.grid**2
    with torch.no_grad():
        rows, _ = case.model.splice(case.batch)
    compressed = rows[:, IMAGE_PLACE : IMAGE_PLACE + tokens]
    text = torch.cat([rows[:, :IMAGE_PLACE], rows[:, IMAGE_PLACE + tokens :]], dim=1)
    expected_text = np.delete(case.expected["text"], IMAGE_PLACE, axis=1)
    kept = np.delete(case.batch.attention_mask.numpy(), IMAGE_PLACE, axis=1)
    assert kept.sum() == 36
    assert_compressed_agree(compressed.numpy(), case.expected["compressed"])
    np.testing.assert_allclose(text.numpy()[kept], expected_text[kept], rtol=0, atol=2e-6)


def test_loss_and_gradients(case: Case) -> None:
    case.model.zero_grad()
    loss = case.model(case.batch)
    mean = loss.total / loss.num_labels
    mean.backward()
    assert mean.item() == pytest.approx(float(case.expected["loss"]), rel=1e-5)
    expected = {
        name.removeprefix("grad_norm/"): float(norm)
        for name, norm in case.expected.items()
        if name.startswith("grad_norm/")
    }
    norms = {
        published_name(name): weight.grad.norm().item()
        for name, weight in case.model.named_parameters()
        if weight.grad is not None
    }
    assert norms.keys() == expected.keys()
    assert norms == pytest.approx(expected, rel=1e-3)


def test_video_embeddings(case: Case) -> None:
    views = CASES[case.tag][1]
    first = case.batch
    video = ModelBatch(
        token_ids=first.token_ids[:1],
        labels=first.labels[:1],
        attention_mask=first.attention_mask[:1],
        fuse_mask=first.fuse_mask[:1],
        frames=draw(f"{case.tag}/video", (3, views, 576, 1024), 1.0),
        frames_per_medium=(3,),
        media_per_example=(1,),
        example_ids=("a",),
    )
    with torch.no_grad():
        rows, _ = case.model.splice(video)
    end = IMAGE_PLACE + 3 * case.model.shape.grid**2
    found, expected = rows.numpy(), case.expected["video_embeds"]
    assert found.shape == expected.shape
    assert_compressed_agree(found[:, IMAGE_PLACE:end], expected[:, IMAGE_PLACE:end])
    np.testing.assert_allclose(found[:, :IMAGE_PLACE], expected[:, :IMAGE_PLACE], rtol=0, atol=2e-6)
    np.testing.assert_allclose(found[:, end:], expected[:, end:], rtol=0, atol=2e-6)


def test_published_keys_lead_back(case: Case) -> None:
    names = set(case.model.state_dict())
    assert {own_name(published_name(name)) for name in names} == names
    assert len({published_name(name) for name in names}) == len(names)
