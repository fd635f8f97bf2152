"""Scenes show what they say: colors where they are said to be, balls that go where they are said to go."""

import io

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from jobs.demo.media import VIDEO_SUFFIXES, encode_clip, encode_picture
from jobs.demo.scenes import (
    PAINT,
    STEP,
    Clip,
    Color,
    Direction,
    Pattern,
    draw_frames,
    draw_picture,
    invent_clip,
    invent_picture,
    seed_random,
)


def nearest_color(pixel: np.ndarray) -> Color:
    return min(PAINT, key=lambda color: float(np.abs(pixel - np.array(PAINT[color])).sum()))


def patch_color(image: Image.Image, x: float, y: float) -> Color:
    pixels = np.asarray(image, dtype=np.float32)
    column, row = int(x * (image.width - 1)), int(y * (image.height - 1))
    return nearest_color(pixels[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3].mean((0, 1)))


def ball_center(image: Image.Image, ball: Color) -> tuple[float, float]:
    pixels = np.asarray(image, dtype=np.int32)
    rows, columns = np.nonzero(np.abs(pixels - np.array(PAINT[ball])).sum(-1) < 60)
    assert len(rows) > 100
    return float(columns.mean()), float(rows.mean())


def make_clip(direction: Direction) -> Clip:
    return Clip(
        width_px=224,
        height_px=168,
        frames_per_s=8,
        duration_s=3,
        ground=Color.BLUE,
        last_ground=Color.YELLOW,
        ball=Color.RED,
        direction=direction,
        seed=5,
    )


@given(st.integers(0, 10_000))
def test_a_picture_shows_its_colors_where_it_says(seed: int):
    picture = invent_picture(seed_random(seed))
    image = draw_picture(picture)
    assert picture.ground is not picture.figure
    assert patch_color(image, *picture.center) is picture.figure
    if picture.pattern is Pattern.PLAIN:
        assert patch_color(image, 0.01, 0.01) is picture.ground
        assert patch_color(image, 0.99, 0.01) is (picture.right_ground or picture.ground)


def test_a_pattern_changes_the_ground_only():
    plain, striped = (
        next(
            picture
            for seed in range(500)
            if (picture := invent_picture(seed_random(seed))).pattern is pattern and not picture.right_ground
        )
        for pattern in (Pattern.PLAIN, Pattern.STRIPES)
    )
    spread = [float(np.asarray(draw_picture(one))[:, 3:8].std(axis=0).mean()) for one in (plain, striped)]
    assert spread[0] < 10 < 30 < spread[1]


def test_a_word_is_printed_below_the_figure():
    mute = invent_picture(seed_random(3))
    spoken = invent_picture(seed_random(3), word="OPEN")
    low = slice(int(spoken.height_px * 0.85), None)
    inked = [
        sum(
            patch == spoken.figure
            for patch in map(nearest_color, np.asarray(draw_picture(one))[low, ::3].reshape(-1, 3))
        )
        for one in (mute, spoken)
    ]
    assert inked[1] > inked[0] + 20


@pytest.mark.parametrize("direction", Direction)
def test_the_ball_moves_in_its_direction_and_the_ground_turns(direction: Direction):
    clip = make_clip(direction)
    images = list(draw_frames(clip))
    assert len(images) == clip.num_frames == 24
    first, last = (np.array(ball_center(image, clip.ball)) for image in (images[0], images[-1]))
    moved = last - first
    step = np.array(STEP[direction])
    assert float((moved * step).sum()) > 0.4 * (clip.width_px if step[0] else clip.height_px)
    assert float(np.abs(moved * (step == 0)).max()) < 4
    grounds = [patch_color(image, 0.01, 0.01) for image in images]
    assert grounds == [clip.ground] * 12 + [clip.last_ground] * 12


@pytest.mark.parametrize("suffix", VIDEO_SUFFIXES)
def test_a_clip_is_the_same_file_twice_and_decodes_to_its_frames(suffix: str):
    clip = invent_clip(seed_random(1))
    data = encode_clip(clip, suffix)
    assert data == encode_clip(clip, suffix)
    with av.open(io.BytesIO(data)) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
        assert container.format.name.startswith({".mp4": "mov"}.get(suffix, "matroska"))
    assert len(frames) == clip.num_frames
    assert patch_color(frames[0], 0.02, 0.02) is clip.ground
    assert patch_color(frames[-1], 0.02, 0.02) is clip.last_ground


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF"])
def test_a_picture_is_the_same_file_twice(image_format):
    picture = invent_picture(seed_random(2))
    data = encode_picture(picture, image_format)
    assert data == encode_picture(picture, image_format)
    assert Image.open(io.BytesIO(data)).format == image_format


def test_parts_of_a_seed_do_not_change_each_other():
    assert seed_random(0, "a").random() == seed_random(0, "a").random()
    draws = {seed_random(seed, name).random() for seed in (0, 1) for name in ("a", "b", 1)}
    assert len(draws) == 6
