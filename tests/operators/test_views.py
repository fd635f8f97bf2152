"""Geometry of views against the published order of steps, and its invariants."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from operators.preprocess import CLIP_PROCESSOR, cut_view
from operators.views import VIEWS_PER_PICTURE, Box, plan_views

SIDES = st.integers(2, 400)
ASPECTS = ["pad", "center", "squash", "published"]


def pad_then_cut(image):
    """The slow way: draw the square, then cut W//2 x H//2 crops row by row, the whole last."""
    side = max(image.size)
    square = Image.new("RGB", (side, side), CLIP_PROCESSOR.fill_color)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    half = side // 2
    crops = [
        square.crop((column * half, row * half, (column + 1) * half, (row + 1) * half))
        for row in range(2)
        for column in range(2)
    ]
    return [*crops, square]


@pytest.mark.parametrize("size", [(7, 4), (4, 7), (5, 5), (2, 2), (3, 2), (31, 8)])
def test_pad_draws_the_square_first(size):
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    views = plan_views(*size, "hd4", "pad")
    ours = [cut_view(image, view.box, CLIP_PROCESSOR.fill_color) for view in views]
    assert [cut.tobytes() for cut in ours] == [cut.tobytes() for cut in pad_then_cut(image)]


def test_hd4_is_row_major_and_the_whole_picture_is_last():
    boxes = [view.box for view in plan_views(9, 5, "hd4", "published")]
    assert boxes == [Box(0, 0, 4, 2), Box(4, 0, 4, 2), Box(0, 2, 4, 2), Box(4, 2, 4, 2), Box(0, 0, 9, 5)]


def test_center_cuts_the_middle_square_before_the_crops():
    boxes = [view.box for view in plan_views(10, 5, "hd4", "center")]
    assert boxes == [Box(2, 0, 2, 2), Box(4, 0, 2, 2), Box(2, 2, 2, 2), Box(4, 2, 2, 2), Box(2, 0, 5, 5)]


@given(SIDES, SIDES, st.sampled_from(ASPECTS))
def test_crops_tile_the_whole_but_for_one_row_and_column(width, height, aspect):
    *crops, whole = (view.box for view in plan_views(width, height, "hd4", aspect))
    covered = np.zeros((whole.height, whole.width), int)
    for box in crops:
        top, left = box.top - whole.top, box.left - whole.left
        covered[top : top + box.height, left : left + box.width] += 1
    kept = covered[: whole.height // 2 * 2, : whole.width // 2 * 2]
    assert (kept == 1).all()
    assert covered.sum() == kept.sum()
    assert len(crops) + 1 == VIEWS_PER_PICTURE["hd4"]


@given(SIDES, SIDES, st.sampled_from(ASPECTS))
def test_global_is_the_last_view_of_hd4(width, height, aspect):
    assert plan_views(width, height, "global", aspect) == plan_views(width, height, "hd4", aspect)[-1:]


@given(SIDES, SIDES)
def test_pad_loses_no_pixel_and_center_adds_none(width, height):
    padded = plan_views(width, height, "global", "pad")[0].box
    assert padded.left <= 0 <= width <= padded.left + padded.width
    assert padded.top <= 0 <= height <= padded.top + padded.height
    middle = plan_views(width, height, "global", "center")[0].box
    assert middle.left >= 0
    assert middle.top >= 0
    assert middle.width == middle.height == min(width, height)


def test_only_squash_stretches():
    assert [aspect for aspect in ASPECTS if plan_views(6, 4, "global", aspect)[0].stretch] == ["squash"]


def test_slivers_are_refused():
    with pytest.raises(ValueError, match="cannot be cut"):
        plan_views(1, 100, "hd4", "pad")
