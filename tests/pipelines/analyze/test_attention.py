"""Attention by role against a slow twin, head by head and token by token; vision dropped where asked."""

import math
import sys
from pathlib import Path

import pytest
import torch
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from operators.batch import IGNORED_LABEL
from pipelines.analyze.attention import (
    Role,
    cut_ranges,
    find_roles,
    measure_attention,
    measure_loss_without_vision,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "train"))
from tiny_models import Say, tiny_batch, tiny_model

EXAMPLES = [
    [Say("human", 5, (1,)), Say("gpt", 3)],
    [Say("human", 2), Say("gpt", 2), Say("human", 4, (2,)), Say("gpt", 1)],
    [Say("human", 6), Say("gpt", 2)],
]


def slow_roles(batch, tokens_per_frame: int) -> list[list[Role]]:
    media = list(batch.frames_per_medium)
    rows = []
    for ids, labels, attended in zip(batch.token_ids, batch.labels, batch.attention_mask, strict=True):
        row: list[Role] = []
        for token, label in zip(ids[attended].tolist(), labels[attended].tolist(), strict=True):
            if token < 0:
                row += [Role.VISION] * (media.pop(0) * tokens_per_frame)
            else:
                row.append(Role.INSTRUCTION if label == IGNORED_LABEL else Role.RESPONSE)
        rows.append(row)
    return rows


def slow_maps(model, rows) -> list[torch.Tensor]:
    """[batch heads length length] of each layer, one head after the other, from weights and hidden states."""
    body = model.llm.base_model
    states = body(inputs_embeds=rows, use_cache=False, output_hidden_states=True).hidden_states
    config = model.llm.config
    size = config.hidden_size // config.num_attention_heads
    group = config.num_attention_heads // config.num_key_value_heads
    positions = torch.arange(rows.shape[1])[None]
    maps = []
    for layer, entering in zip(body.layers, states[:-1], strict=True):
        normed = layer.input_layernorm(entering)
        queries, keys = layer.self_attn.q_proj(normed), layer.self_attn.k_proj(normed)
        queries, keys = (x.unflatten(-1, (-1, size)).transpose(1, 2) for x in (queries, keys))
        queries, keys = apply_rotary_pos_emb(queries, keys, *body.rotary_emb(normed, positions))
        out = torch.zeros(rows.shape[0], config.num_attention_heads, rows.shape[1], rows.shape[1])
        for example in range(rows.shape[0]):
            for head in range(config.num_attention_heads):
                for place in range(rows.shape[1]):
                    seen = keys[example, head // group, : place + 1]
                    scores = seen @ queries[example, head, place] / math.sqrt(size)
                    out[example, head, place, : place + 1] = scores.softmax(dim=0)
        maps.append(out)
    return maps


@pytest.mark.parametrize("stage", [1, 2])
@torch.no_grad()
def test_attention_equals_its_slow_twin(stage) -> None:
    model, batch = tiny_model(stage).eval(), tiny_batch(EXAMPLES, padding=2)
    found = measure_attention(model, batch)
    rows, _ = model.splice(batch)
    roles = slow_roles(batch, 4)
    for layer, maps in enumerate(slow_maps(model, rows)):
        shares = torch.zeros(3, 3)
        entropy = torch.zeros(3)
        for example, row in enumerate(roles):
            for place, role in enumerate(row):
                per_head = []
                for weights in maps[example, :, place]:
                    for key, other in enumerate(row[: place + 1]):
                        shares[role, other] += weights[key] / len(maps[example])
                    vision = [float(weights[key]) for key in range(place + 1) if row[key] is Role.VISION]
                    total = sum(vision)
                    per_head.append(-sum(one / total * math.log2(one / total) for one in vision))
                entropy[role] += sum(per_head) / len(per_head)
        torch.testing.assert_close(found.shares[layer], shares, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.entropy[layer], entropy, rtol=1e-4, atol=1e-4)
    assert found.tokens.tolist() == [sum(row.count(role) for row in roles) for role in Role]
    torch.testing.assert_close(found.shares.sum(dim=2), found.tokens.float().expand(2, 3), rtol=1e-4, atol=0)


def test_roles_are_found() -> None:
    model, batch = tiny_model(1), tiny_batch(EXAMPLES, padding=2)
    found = find_roles(batch, model.splice(batch).layout)
    expected = slow_roles(batch, 4)
    assert [[Role(one) for one in row if one >= 0] for row in found.tolist()] == expected


def test_sums_of_batches_add_up() -> None:
    model = tiny_model(2).eval()
    whole = measure_attention(model, tiny_batch(EXAMPLES[:1]))
    twice = whole.add(whole)
    torch.testing.assert_close(twice.shares, 2 * whole.shares)
    assert twice.tokens.tolist() == [2 * count for count in whole.tokens.tolist()]


def test_nothing_dropped_is_the_models_own_loss() -> None:
    model, batch = tiny_model(2).eval(), tiny_batch(EXAMPLES)
    before = model.llm.config._attn_implementation
    total, num_labels = measure_loss_without_vision(model, batch, [])
    loss = model(batch)
    assert total == pytest.approx(float(loss.total.detach()), rel=1e-4)
    assert num_labels == loss.num_labels
    assert model.llm.config._attn_implementation == before


def test_dropped_everywhere_the_picture_does_not_matter_and_dropped_somewhere_it_does() -> None:
    """Stage 1, where text holds nothing of the picture."""
    model = tiny_model(1).eval()
    one, other = (tiny_batch(EXAMPLES[:1], seed=0) for _ in range(2))
    other.frames.add_(3.0)
    losses = {
        layers: [measure_loss_without_vision(model, batch, layers)[0] for batch in (one, other)]
        for layers in ((), (0,), (1,), (0, 1))
    }
    assert losses[(0, 1)][0] == pytest.approx(losses[(0, 1)][1], rel=1e-5)
    for layers in ((), (0,), (1,)):
        assert losses[layers][0] != pytest.approx(losses[layers][1], rel=1e-4)
    assert len({round(pair[0], 3) for pair in losses.values()}) == 4
    assert not any(layer._forward_pre_hooks for layer in model.llm.base_model.layers)


def test_layers_are_cut_into_ranges() -> None:
    assert cut_ranges(10, 4) == [range(4), range(4, 8), range(8, 10)]
