"""Weights under the published key names: out, in again, and refused when they do not fit."""

import pytest
import torch
from tiny_models import Say, tiny_batch, tiny_model

from pipelines.train.foreign import load_foreign
from pipelines.train.published import own_name, published_name, published_weights
from schemas.errors import MismatchError


def test_round_trip() -> None:
    source, target = tiny_model(seed=1), tiny_model(seed=2)
    batch = tiny_batch([[Say("human", 5, (1,)), Say("gpt", 4)]])
    expected = source(batch).total.item()
    assert target(batch).total.item() != expected
    weights = {key: tensor.clone() for key, tensor in published_weights(source).items()}
    load_foreign(target, weights, "there")
    assert target(batch).total.item() == expected
    state, loaded = source.state_dict(), target.state_dict()
    assert all(torch.equal(state[name], loaded[name]) for name in state)


def test_keys_are_the_published_ones() -> None:
    keys = set(published_weights(tiny_model()))
    assert {
        "model.mm_projector.0.weight",
        "model.mm_projector.2.bias",
        "model.compressor.query",
        "model.compressor.pos_embed",
        "model.compressor.attn.in_proj_weight",
        "model.compressor.ln_kv.bias",
        "model.prefusion_layers.1.self_attn.q_proj.weight",
        "model.prefusion_layers.0.input_layernorm.weight",
        "model.layers.1.mlp.down_proj.weight",
        "model.embed_tokens.weight",
        "model.norm.weight",
        "lm_head.weight",
    } <= keys
    assert all(published_name(own_name(key)) == key for key in keys)


def test_vision_tower_is_passed_over() -> None:
    model = tiny_model()
    weights = published_weights(model) | {"model.vision_tower.vision_tower.x": torch.zeros(1)}
    load_foreign(model, weights, "there")


def test_stage_one_has_projector_and_language_model() -> None:
    keys = set(published_weights(tiny_model(1)))
    assert "model.mm_projector.0.weight" in keys
    assert not any("compressor" in key or "prefusion" in key for key in keys)


@pytest.mark.parametrize(
    ("key", "tensor", "words"),
    [
        ("model.compressor.query", None, "is None there"),
        ("model.prefusion_layers.7.mlp.up_proj.weight", torch.zeros(1), "and None here"),
        ("model.compressor.query", torch.zeros(9, 16), r"is \(9, 16\) there"),
        ("model.compressor.pos_embed", torch.zeros(4, 16), "sine-cosine"),
    ],
)
def test_what_does_not_fit_is_refused(key: str, tensor: torch.Tensor | None, words: str) -> None:
    model = tiny_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    weights = {
        name: value + 1.0 for name, value in published_weights(model).items() if "pos_embed" not in name
    }
    if tensor is None:
        del weights[key]
    else:
        weights[key] = tensor
    with pytest.raises(MismatchError, match=words):
        load_foreign(model, weights, "there")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_unknown_part_has_no_key() -> None:
    with pytest.raises(MismatchError, match="no published key"):
        published_name("tower.weight")
