"""The released PruMerge and PruMerge+, from a small tower to tokens; a formula gives weights and pictures.

The values are what the released code (42Shawn/LLaVA-PruMerge at 097c0411) returned for one picture at a time.
"""

import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

from operators.clip import EncoderOutput, VisionEncoder
from operators.reducers import build_reducer, reduce_frames
from operators.reducers.focus import focus_view
from schemas.reducer import ReducerConfig

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "prumerge_released.npz"
PICTURES = range(4)
CELLS = {2: 28, 3: 84}
"""Some pictures are coarse, so that patches are alike."""


def draw(name: str, shape: tuple[int, ...], scale: float) -> torch.Tensor:
    generator = np.random.Generator(np.random.Philox(zlib.crc32(name.encode())))
    return torch.from_numpy((generator.standard_normal(shape) * scale).astype(np.float32))


def draw_picture(number: int) -> torch.Tensor:
    picture = draw(f"prumerge/image{number}", (1, 3, 336, 336), 1.0)
    if number in CELLS:
        size = CELLS[number]
        pooled = torch.nn.functional.avg_pool2d(picture, size)
        picture = pooled.repeat_interleave(size, 2).repeat_interleave(size, 3) * 4
    return picture


@pytest.fixture(scope="module")
def encoder() -> VisionEncoder:
    config = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=24,
        num_attention_heads=4,
        image_size=336,
        patch_size=14,
        attn_implementation="eager",
    )
    tower = CLIPVisionModel(config).eval()
    with torch.no_grad():
        for own_name, weight in tower.named_parameters():
            name = f"vision_model.{own_name.removeprefix('vision_model.')}"
            is_last = ".layers.23." in name and (".q_proj." in name or ".k_proj." in name)
            is_norm = name.endswith(".weight") and "norm" in name.split(".")[-2]
            weight.copy_(draw(name, tuple(weight.shape), 0.16 if is_last else 0.1) + float(is_norm))
    return VisionEncoder(tower)


@pytest.fixture(scope="module")
def encoded(encoder: VisionEncoder) -> list[EncoderOutput]:
    with torch.no_grad():
        return [encoder.encode(draw_picture(number)) for number in PICTURES]


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    with np.load(GOLDEN, allow_pickle=False) as stored:
        return {name: torch.from_numpy(stored[name]) for name in stored.files}


@pytest.mark.parametrize("number", PICTURES)
def test_class_attention_of_joined_heads(
    encoder: VisionEncoder, encoded: list[EncoderOutput], golden: dict[str, torch.Tensor], number: int
) -> None:
    output = encoded[number]
    focus = focus_view(output.class_row[0], output.patches[0], encoder.last_layer_attention_weights())
    expected = golden[f"image{number}/class_attention"][0]
    torch.testing.assert_close(focus.joined_attention, expected, rtol=1e-3, atol=1e-7)
    assert not torch.allclose(focus.attention, expected, rtol=0.1), "heads by themselves are another thing"


@pytest.mark.parametrize("number", PICTURES)
@pytest.mark.parametrize("name", ["prumerge", "prumerge_plus"])
def test_tokens(
    encoder: VisionEncoder,
    encoded: list[EncoderOutput],
    golden: dict[str, torch.Tensor],
    name: str,
    number: int,
) -> None:
    reducer = build_reducer(ReducerConfig(name=name, variant="released"))
    output = encoded[number]
    found = reduce_frames(
        reducer, output.patches[None], output.class_row[None], encoder.last_layer_attention_weights()
    )
    expected = golden[f"image{number}/{name}"]
    assert found.counts == (expected.shape[1],)
    torch.testing.assert_close(found.tokens, expected, rtol=1e-4, atol=2e-4)
