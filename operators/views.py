"""Which rectangles of a picture become views: geometry only, no pixels.

Two layouts. `global` is the whole picture. `hd4` is four crops of W//2 x H//2, row by row, then the whole
picture, **last**; floor division loses at most one column on the right and one row below, as the published
code does (LLaVA-Mini, `split_image`).

The encoder wants squares, pictures are none; the aspect policy says what gives:

    pad        the picture is centred on a square of the long side, filled with the encoder's mean colour
               (LLaVA's `expand2square`: the odd pixel goes right or below), then cut; nothing is lost
    center     the largest centred square is cut out first, then cut; the ends of the long side are lost
    squash     each view is stretched to a square; nothing is lost, proportions are
    published  each view passes the image processor by itself (short side to 336, centre crop), so each crop
               loses its own ends; this is what LLaVA-Mini trains with

A view is a box in the coordinates of the picture. Boxes of `pad` reach outside it; there the fill colour is.
A frame of a video is a picture with the layout `global`. Sizes are those on display.
"""

from dataclasses import dataclass
from typing import Final, Literal

Layout = Literal["global", "hd4"]
Aspect = Literal["pad", "center", "squash", "published"]

VIEWS_PER_PICTURE: Final[dict[Layout, int]] = {"global": 1, "hd4": 5}


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels; it may reach outside the picture."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class View:
    """A box, and what happens where it is no square."""

    box: Box
    stretch: bool
    """True: stretched to a square; False: fitted as the encoder's own processor does."""


def plan_views(width_px: int, height_px: int, layout: Layout, aspect: Aspect) -> tuple[View, ...]:
    """The views of a picture, in the order in which they are stored.

    Raises:
        ValueError: a side of less than two pixels (`operators.image` rejects those earlier).
    """
    if min(width_px, height_px) < 2:
        raise ValueError(f"{width_px} x {height_px} pixels cannot be cut into views")
    whole = _frame_picture(width_px, height_px, aspect)
    boxes = (whole,) if layout == "global" else (*_cut_quarters(whole), whole)
    return tuple(View(box, stretch=aspect == "squash") for box in boxes)


def _frame_picture(width_px: int, height_px: int, aspect: Aspect) -> Box:
    """The rectangle that counts as the whole picture."""
    if aspect == "pad":
        side = max(width_px, height_px)
        return Box(-((side - width_px) // 2), -((side - height_px) // 2), side, side)
    if aspect == "center":
        side = min(width_px, height_px)
        return Box((width_px - side) // 2, (height_px - side) // 2, side, side)
    return Box(0, 0, width_px, height_px)


def _cut_quarters(whole: Box) -> tuple[Box, Box, Box, Box]:
    width, height = whole.width // 2, whole.height // 2
    left, top = whole.left, whole.top
    return (
        Box(left, top, width, height),
        Box(left + width, top, width, height),
        Box(left, top + height, width, height),
        Box(left + width, top + height, width, height),
    )
