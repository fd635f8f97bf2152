"""The compressor: what it looks at, and what it cannot tell apart."""

import pytest
import torch
from torch import Tensor

from operators.compressor import Compressor
from operators.positions import PositionMode, query_and_key_positions
from operators.view_grid import join_crops, order_patches, patches_to_compress
from schemas.errors import ConfigError, MismatchError

WIDTH, SIDE = 16, 3


def make_compressor(grid: int, positions: PositionMode = "published") -> Compressor:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        compressor = Compressor(WIDTH, grid, 2, positions)
    with torch.no_grad():
        compressor.query.mul_(50)
    return compressor


def make_views(views: int, frames: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(frames, views, SIDE * SIDE, WIDTH, generator=generator)


def test_crops_are_joined_into_one_picture() -> None:
    picture = torch.randn(2, 2 * SIDE, 2 * SIDE, WIDTH)
    crops = [picture[:, r : r + SIDE, c : c + SIDE] for r in (0, SIDE) for c in (0, SIDE)]
    stacked = torch.stack([crop.reshape(2, SIDE * SIDE, WIDTH) for crop in crops], dim=1)
    assert torch.equal(join_crops(stacked), picture.reshape(2, -1, WIDTH))


def test_whole_picture_is_fused_but_not_compressed() -> None:
    views = make_views(5)
    assert torch.equal(patches_to_compress(views), join_crops(views[:, :4]))
    assert torch.equal(order_patches(views)[:, : 4 * SIDE * SIDE], join_crops(views[:, :4]))
    assert torch.equal(order_patches(views)[:, 4 * SIDE * SIDE :], views[:, 4])
    changed = views.clone()
    changed[:, 4] += 1.0
    compressor = make_compressor(2)
    assert torch.equal(compressor(views), compressor(changed))
    changed[:, 0] += torch.randn(WIDTH)
    assert not torch.equal(compressor(views), compressor(changed))


@pytest.mark.parametrize("views", [1, 5])
@pytest.mark.parametrize("grid", [1, 2, 4])
def test_attention_equals_its_formula(views: int, grid: int) -> None:
    compressor = make_compressor(grid)
    pictures = make_views(views)
    queries_grid, keys = compressor.ln_q(compressor.query), compressor.ln_kv(patches_to_compress(pictures))
    side = SIDE if views == 1 else 2 * SIDE
    query_places, key_places = query_and_key_positions("published", grid, side, WIDTH, torch.device("cpu"))
    weights = compressor.attn.in_proj_weight.split(WIDTH)
    biases = compressor.attn.in_proj_bias.split(WIDTH)
    inputs = ((queries_grid + query_places).expand(2, -1, -1), keys + key_places, keys)
    q, k, v = (
        (rows @ weight.T + bias).reshape(2, -1, 2, WIDTH // 2).transpose(1, 2)
        for rows, weight, bias in zip(inputs, weights, biases, strict=True)
    )
    attended = torch.softmax(q @ k.transpose(2, 3) / (WIDTH // 2) ** 0.5, dim=-1) @ v
    expected = compressor.attn.out_proj(attended.transpose(1, 2).reshape(2, grid * grid, WIDTH))
    torch.testing.assert_close(compressor(pictures), expected, rtol=1e-5, atol=1e-6)


def test_one_published_query_knows_no_places() -> None:
    """With C = 1 the published key positions are all alike, so shuffling patches changes nothing."""
    views = make_views(1)
    shuffled = views[:, :, torch.randperm(SIDE * SIDE, generator=torch.Generator().manual_seed(3))]
    published, native = make_compressor(1), make_compressor(1, "native")
    torch.testing.assert_close(published(views), published(shuffled), rtol=1e-5, atol=1e-6)
    assert (native(views) - native(shuffled)).abs().max() > 1e-4


def test_other_numbers_of_views_are_refused() -> None:
    with pytest.raises(MismatchError, match="4 crops"):
        make_compressor(1)(make_views(3))
    with pytest.raises(MismatchError, match="4 crops"):
        order_patches(make_views(2))


@pytest.mark.parametrize(("width", "grid", "heads"), [(16, 0, 2), (16, 1, 3), (18, 1, 2)])
def test_shapes_that_do_not_divide_are_refused(width: int, grid: int, heads: int) -> None:
    with pytest.raises(ConfigError):
        Compressor(width, grid, heads)
