"""The demo's world: flat pictures and short clips whose facts are known because they are drawn from them.

A picture is a colored ground, perhaps of two halves or with a pattern, one figure, and perhaps a printed
word. A clip is a ball that crosses a ground, which may change color halfway. The eight colors are the
corners of the RGB cube: an encoder with random weights keeps a patch's color as a direction, so that they
stay far apart and a small model can learn to name them from a few hundred pictures.

Every draw is a function of its scene alone (grain comes from the scene's own seed). A picture costs about 3
ms. Left out: light, depth, overlap, more than one figure.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_GRAIN: Final = 5.0
_GRAY: Final = (128, 128, 128)

Rgb = tuple[int, int, int]


class Color(StrEnum):
    """What a ground, a figure or a ball can be painted with."""

    BLACK = "black"
    BLUE = "blue"
    GREEN = "green"
    CYAN = "cyan"
    RED = "red"
    PINK = "pink"
    YELLOW = "yellow"
    WHITE = "white"


class Shape(StrEnum):
    """Outlines of figures."""

    DISC = "disc"
    SQUARE = "square"
    TRIANGLE = "triangle"
    CROSS = "cross"


class Pattern(StrEnum):
    """What is printed over a ground."""

    PLAIN = "plain"
    STRIPES = "stripes"
    DOTS = "dots"
    CHECKS = "checks"


class Direction(StrEnum):
    """Where a ball goes."""

    LEFT = "left"
    RIGHT = "right"
    UP = "up"
    DOWN = "down"


PAINT: Final[dict[Color, Rgb]] = {
    Color.BLACK: (18, 18, 18),
    Color.BLUE: (20, 30, 225),
    Color.GREEN: (20, 190, 30),
    Color.CYAN: (20, 215, 225),
    Color.RED: (225, 25, 25),
    Color.PINK: (235, 40, 220),
    Color.YELLOW: (240, 225, 25),
    Color.WHITE: (242, 242, 242),
}
STEP: Final[dict[Direction, tuple[float, float]]] = {
    Direction.LEFT: (-1.0, 0.0),
    Direction.RIGHT: (1.0, 0.0),
    Direction.UP: (0.0, -1.0),
    Direction.DOWN: (0.0, 1.0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One still scene; places and sizes are shares of the picture's own width and height."""

    width_px: int
    height_px: int
    ground: Color
    figure: Color
    shape: Shape
    center: tuple[float, float]
    radius: float
    """Half the figure's extent, as a share of the shorter edge."""
    right_ground: Color | None = None
    """The color of the right half, where the ground has two."""
    pattern: Pattern = Pattern.PLAIN
    word: str | None = None
    """Printed in large letters along the lower edge."""
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """One moving scene."""

    width_px: int
    height_px: int
    frames_per_s: int
    duration_s: int
    ground: Color
    last_ground: Color
    """The ground of the second half; equal to `ground` where nothing changes."""
    ball: Color
    direction: Direction
    seed: int

    @property
    def num_frames(self) -> int:
        """How many pictures the clip shows."""
        return self.frames_per_s * self.duration_s


def invent_picture(
    random: Random, width_px: int = 320, height_px: int = 240, word: str | None = None
) -> Picture:
    """A picture at random; some have a pattern or two halves; a word lifts the figure."""
    ground = random.choice(list(Color))
    figure = other_color(random, ground)
    pattern = random.choice([Pattern.PLAIN] * 4 + [Pattern.STRIPES, Pattern.DOTS, Pattern.CHECKS])
    is_split = pattern is Pattern.PLAIN and random.random() < 0.2
    return Picture(
        width_px=width_px,
        height_px=height_px,
        ground=ground,
        figure=figure,
        shape=random.choice(list(Shape)),
        center=(random.uniform(0.4, 0.6), random.uniform(0.4, 0.6) if word is None else 0.4),
        radius=random.uniform(0.32, 0.4) if word is None else 0.34,
        right_ground=other_color(random, ground, figure) if is_split else None,
        pattern=pattern,
        word=word,
        seed=random.getrandbits(32),
    )


def invent_clip(random: Random) -> Clip:
    """A clip of 3 to 5 seconds at random; half of them change their ground."""
    ground = random.choice(list(Color))
    ball = other_color(random, ground)
    return Clip(
        width_px=224,
        height_px=168,
        frames_per_s=8,
        duration_s=random.randint(3, 5),
        ground=ground,
        last_ground=random.choice([ground, other_color(random, ground, ball)]),
        ball=ball,
        direction=random.choice(list(Direction)),
        seed=random.getrandbits(32),
    )


def seed_random(seed: int, *names: str | int) -> Random:
    """The source of chance for one named part, so that parts can grow without changing each other."""
    return Random("/".join(map(str, (seed, *names))))  # noqa: S311


def other_color(random: Random, *taken: Color) -> Color:
    """A color that is none of `taken`."""
    return random.choice([color for color in Color if color not in taken])


def mix(first: Rgb, second: Rgb, share: float) -> Rgb:
    """`first` with a share of `second` stirred in."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def draw_picture(picture: Picture) -> Image.Image:
    """The picture as RGB."""
    size = (picture.width_px, picture.height_px)
    image = Image.new("RGB", size, PAINT[picture.ground])
    draw = ImageDraw.Draw(image)
    if picture.right_ground is not None:
        draw.rectangle((size[0] // 2, 0, *size), fill=PAINT[picture.right_ground])
    _draw_pattern(draw, picture.pattern, size, mix(PAINT[picture.ground], _GRAY, 0.6))
    center_x, center_y = picture.center[0] * size[0], picture.center[1] * size[1]
    _draw_figure(draw, picture.shape, (center_x, center_y), picture.radius * min(size), PAINT[picture.figure])
    if picture.word is not None:
        _draw_word(draw, picture.word, size, PAINT[picture.figure])
    return _with_grain(image, np.random.default_rng(picture.seed))


def draw_frames(clip: Clip) -> Iterator[Image.Image]:
    """The clip's pictures in order: the ball crosses once, the ground changes at half time."""
    rng = np.random.default_rng(clip.seed)
    size = (clip.width_px, clip.height_px)
    step_x, step_y = STEP[clip.direction]
    for index in range(clip.num_frames):
        share = index / max(1, clip.num_frames - 1)
        ground = clip.ground if 2 * index < clip.num_frames else clip.last_ground
        image = Image.new("RGB", size, PAINT[ground])
        center = (
            size[0] * (0.5 + step_x * 0.5 * (share - 0.5)),
            size[1] * (0.5 + step_y * 0.5 * (share - 0.5)),
        )
        _draw_figure(ImageDraw.Draw(image), Shape.DISC, center, 0.26 * min(size), PAINT[clip.ball])
        yield _with_grain(image, rng)


def _with_grain(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The picture under a film of noise, so that no two files are equal."""
    pixels = np.asarray(image, dtype=np.float32)
    noise = rng.standard_normal(pixels.shape, dtype=np.float32) * np.float32(_GRAIN)
    return Image.fromarray(np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8))


def _draw_figure(
    draw: ImageDraw.ImageDraw, shape: Shape, center: tuple[float, float], radius_px: float, ink: Rgb
) -> None:
    x, y = center
    left, top, right, bottom = x - radius_px, y - radius_px, x + radius_px, y + radius_px
    if shape is Shape.DISC:
        draw.ellipse((left, top, right, bottom), fill=ink)
    elif shape is Shape.SQUARE:
        draw.rectangle((left, top, right, bottom), fill=ink)
    elif shape is Shape.TRIANGLE:
        draw.polygon(((x, top), (right, bottom), (left, bottom)), fill=ink)
    else:
        arm = radius_px / 2.5
        draw.rectangle((x - arm, top, x + arm, bottom), fill=ink)
        draw.rectangle((left, y - arm, right, y + arm), fill=ink)


def _draw_pattern(draw: ImageDraw.ImageDraw, pattern: Pattern, size: tuple[int, int], ink: Rgb) -> None:
    width, height = size
    pitch = max(8, min(size) // 8)
    columns, rows = range(0, width, pitch), range(0, height, pitch)
    if pattern is Pattern.STRIPES:
        for top in rows:
            draw.rectangle((0, top, width, top + pitch // 3), fill=ink)
    elif pattern is Pattern.DOTS:
        dot = pitch / 4
        for x in columns:
            for y in rows:
                draw.ellipse((x, y, x + 2 * dot, y + 2 * dot), fill=ink)
    elif pattern is Pattern.CHECKS:
        for x in columns:
            for y in rows:
                if (x // pitch + y // pitch) % 2:
                    draw.rectangle((x, y, x + pitch - 1, y + pitch - 1), fill=ink)


def _draw_word(draw: ImageDraw.ImageDraw, word: str, size: tuple[int, int], ink: Rgb) -> None:
    font = ImageFont.load_default(size=size[1] / 7)
    draw.text((size[0] / 2, size[1] * 0.9), word, font=font, fill=ink, anchor="mm")
