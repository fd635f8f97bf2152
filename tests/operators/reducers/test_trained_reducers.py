"""Q-Former, Perceiver resampler and query compressor: slow twins, and bits that batch mates do not change."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from operators.compressor import Compressor
from operators.reducers import build_trained_reducer
from operators.view_grid import order_patches
from schemas.errors import ConfigError
from schemas.reducer import ReducerConfig

WIDTH, HEADS = 16, 2


def build_named(name: str, grid: int = 2) -> nn.Module:
    settings = {} if name == "query" else {"tokens": 3, "layers": 3}
    torch.manual_seed(0)
    module = build_trained_reducer(ReducerConfig(name=name, **settings), WIDTH, HEADS, grid=grid)
    for weight in module.parameters():
        nn.init.normal_(weight, std=0.3)
    return module


def attend(layer: nn.MultiheadAttention, queries: Tensor, values: Tensor) -> Tensor:
    """Attention head by head, query by query."""
    projections = layer.in_proj_weight.chunk(3), layer.in_proj_bias.chunk(3)
    q, k, v = (
        functional.linear(x, weight, bias)
        for x, weight, bias in zip((queries, values, values), *projections, strict=True)
    )
    size = WIDTH // HEADS
    rows = []
    for query in q:
        heads = []
        for head in range(HEADS):
            part = slice(head * size, (head + 1) * size)
            shares = torch.stack([query[part] @ key[part] / size**0.5 for key in k]).softmax(dim=0)
            heads.append(sum(share * value[part] for share, value in zip(shares, v, strict=True)))
        rows.append(torch.cat(heads))
    return layer.out_proj(torch.stack(rows))


def slow_qformer(model: nn.Module, patches: Tensor) -> Tensor:
    """Li et al. 2023, section 3.1; the picture is read in the first layer and in every second from there."""
    queries = model.queries
    for number, layer in enumerate(model.layers):
        normed = layer.norm(queries)
        queries = queries + attend(layer.own, normed, normed)
        if number % 2 == 0:
            cross = layer.cross
            found = attend(cross.attention, cross.norm_queries(queries), cross.norm_context(patches))
            queries = queries + found
        queries = queries + layer.feed_forward(queries)
    return model.norm(queries)


def slow_perceiver(model: nn.Module, patches: Tensor) -> Tensor:
    """Alayrac et al. 2022, appendix A.1.1."""
    latents = model.latents
    for layer in model.layers:
        cross = layer.cross
        normed = cross.norm_queries(latents)
        latents = latents + attend(cross.attention, normed, torch.cat([cross.norm_context(patches), normed]))
        norm, widen, _, narrow = layer.feed_forward
        hidden = widen(norm(latents))
        latents = latents + narrow(torch.where(hidden > 0, hidden * hidden, 0.0))
    return model.norm(latents)


@pytest.mark.parametrize("views", [1, 5])
@pytest.mark.parametrize(("name", "slow"), [("qformer", slow_qformer), ("perceiver", slow_perceiver)])
def test_equals_its_slow_twin(name, slow, views: int) -> None:
    model = build_named(name)
    frames = torch.randn(2, views, 4, WIDTH)
    expected = torch.stack([slow(model, patches) for patches in order_patches(frames)])
    found = model(frames)
    assert found.shape == (2, 3, WIDTH)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["qformer", "perceiver", "query"])
def test_batch_mates_change_no_bit(name: str) -> None:
    model, frames = build_named(name), torch.randn(7, 5, 9, WIDTH)
    with torch.no_grad():
        together = model(frames)
        for order in ([6, 5, 4, 3, 2, 1, 0], [3, 3, 1], [2]):
            assert torch.equal(model(frames[order]), together[order])


@pytest.mark.parametrize("name", ["qformer", "perceiver"])
def test_every_weight_gets_a_gradient(name: str) -> None:
    model = build_named(name)
    model(torch.randn(2, 1, 4, WIDTH)).square().sum().backward()
    without = [
        key for key, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()
    ]
    assert not without


@pytest.mark.parametrize("positions", ["published", "native"])
def test_the_query_compressor_takes_any_grid(positions) -> None:
    frames = torch.randn(1, 1, 576, 8)
    for grid in range(1, 25):
        model = Compressor(8, grid, 2, positions)
        with torch.no_grad():
            tokens = model(frames)
        assert tokens.shape == (1, grid * grid, 8)
        assert bool(torch.isfinite(tokens).all())


def test_the_papers_numbers_are_the_defaults() -> None:
    frames = torch.randn(1, 1, 4, WIDTH)
    qformer = build_trained_reducer(ReducerConfig(name="qformer"), WIDTH, HEADS)
    perceiver = build_trained_reducer(ReducerConfig(name="perceiver"), WIDTH, HEADS)
    assert (qformer(frames).shape[1], len(qformer.layers)) == (32, 12)
    assert sum(layer.cross is not None for layer in qformer.layers) == 6
    assert (perceiver(frames).shape[1], len(perceiver.layers)) == (64, 6)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing to train"):
        build_trained_reducer(ReducerConfig(name="tome"), WIDTH, HEADS)
    with pytest.raises(ConfigError, match="heads"):
        build_trained_reducer(ReducerConfig(name="qformer"), WIDTH, 3)
