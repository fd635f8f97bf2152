"""What is counted from a configuration is what a model of it reads."""

import pytest
import torch
from tiny_models import ENCODER_WIDTH, PATCHES, Say, tiny_batch, tiny_llm
from tiny_spec import tiny_spec

from pipelines.train.model import build_model
from pipelines.train.shape import count_fused_tokens, shape_of
from schemas.configuration import build
from schemas.training import TrainConfig

INSTRUCTION = 5


def configure(stage: int = 2, views: str = "whole", **model: object) -> TrainConfig:
    value = {"corpus": "c", "stage": stage, "out": "o", "model": model, "data": {"views": views}}
    return build(value, TrainConfig, "test")


@pytest.mark.parametrize("views", ["whole", "all"])
@pytest.mark.parametrize(
    "model",
    [
        {},
        {"grid": 2},
        {"reducer": "all"},
        {"reducer": {"name": "average", "tokens": 1}},
        {"reducer": {"name": "perceiver", "tokens": 4, "layers": 1}},
    ],
    ids=str,
)
def test_rows_of_prefusion_are_as_long_as_counted(views: str, model: dict[str, object]) -> None:
    config = configure(views=views, prefusion={"layers": 1}, **model)
    one = build_model(tiny_llm(), shape_of(config, ENCODER_WIDTH), 2)
    assert one.prefusion is not None
    lengths: list[int] = []
    one.prefusion.register_forward_pre_hook(lambda _, rows: lengths.append(rows[0].shape[1]))
    batch = tiny_batch(
        [[Say("human", INSTRUCTION, frames=(2,)), Say("gpt", 3)]], views=5 if views == "all" else 1
    )
    with torch.no_grad():
        one(batch)
    fixed = count_fused_tokens(config, tiny_spec(PATCHES, ENCODER_WIDTH))
    assert lengths == [fixed + int(batch.fuse_mask.sum())]
    assert int(batch.fuse_mask.sum()) >= INSTRUCTION


def test_nothing_is_fused_without_prefusion() -> None:
    for config in (configure(stage=1), configure(prefusion={"layers": 0})):
        assert count_fused_tokens(config, tiny_spec(PATCHES, ENCODER_WIDTH)) == 0
