"""Pictures that a model of one token can only read with its question in mind.

A picture is a grid of sixteen cells, each of one of six colors with a dark disc in it; one cell stands out,
for its disc is white. An average knows the colors but not whose they are; a query without the question can
find the cell that stands out, and not hold the colors of all sixteen. The discs are alike in all cells, so
what stands out does not leak into an average. Without grain: a PNG is some 2 KB, and takes 2 ms.
"""

from dataclasses import dataclass
from random import Random
from typing import Final

from PIL import Image, ImageDraw

from jobs.demo.scenes import PAINT, Color

SIDE: Final = 4
NUM_CELLS: Final = SIDE * SIDE
CELL_PX: Final = 84
SIDE_PX: Final = SIDE * CELL_PX
COLORS: Final = (Color.BLUE, Color.GREEN, Color.CYAN, Color.RED, Color.PINK, Color.YELLOW)
PLACES: Final = tuple("abcdefghijklmnop")
"""What cells are called, row by row: a token each."""
_RADIUS_PX: Final = 24


@dataclass(frozen=True, slots=True)
class GridPicture:
    """What there is to see."""

    colors: tuple[Color, ...]
    """Of all cells, row by row."""
    standout: int
    """The cell whose disc is white."""


def invent_grid(random: Random) -> GridPicture:
    """A picture at random."""
    return GridPicture(tuple(random.choices(COLORS, k=NUM_CELLS)), random.randrange(NUM_CELLS))


def draw_grid(picture: GridPicture) -> Image.Image:
    """The picture as RGB, of the size that the encoder reads."""
    image = Image.new("RGB", (SIDE_PX, SIDE_PX))
    draw = ImageDraw.Draw(image)
    for cell, color in enumerate(picture.colors):
        row, column = divmod(cell, SIDE)
        left, top = column * CELL_PX, row * CELL_PX
        draw.rectangle((left, top, left + CELL_PX - 1, top + CELL_PX - 1), fill=PAINT[color])
        disc = Color.WHITE if cell == picture.standout else Color.BLACK
        draw.circle((left + CELL_PX / 2, top + CELL_PX / 2), _RADIUS_PX, fill=PAINT[disc])
    return image
