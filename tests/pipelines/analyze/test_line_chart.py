"""Line charts: where lines, ticks and levels are, by the pixels that they color."""

import numpy as np
from PIL import ImageColor

from pipelines.analyze.line_chart import COLORS, MARGIN_PX, MAX_TICKS, SIZE_PX, LineChart, draw_chart

RIGHT, BOTTOM = (size - MARGIN_PX for size in SIZE_PX)


def draw(**parts: object) -> np.ndarray:
    names = [str(place + 1) for place in range(4)]
    return np.asarray(draw_chart(LineChart(**({"places": names, "across": "layer"} | parts))))


def find(pixels: np.ndarray, color: str) -> np.ndarray:
    """Rows and columns of one color inside the frame."""
    inside = pixels[MARGIN_PX + 2 : BOTTOM - 1, MARGIN_PX + 2 : RIGHT - 1]
    return np.argwhere((inside == ImageColor.getrgb(color)).all(axis=-1)) + MARGIN_PX + 2


def test_a_line_rises_from_zero_to_the_highest_value() -> None:
    places = find(draw(lines={"a": [0.0, 1.0, 2.0, 3.0]}), COLORS[0])
    for row, column in places:
        share = (column - MARGIN_PX) / (RIGHT - MARGIN_PX)
        assert abs(row - (BOTTOM - share * (BOTTOM - MARGIN_PX))) < 4
    assert len(places) > RIGHT - MARGIN_PX


def test_a_level_is_dashed_at_its_value() -> None:
    pixels = draw(lines={"a": [2.0, 2.0, 2.0, 2.0]}, level=("whole", 1.0))
    middle = (MARGIN_PX + BOTTOM) // 2
    dark = (pixels[middle, MARGIN_PX:RIGHT] == 0).all(axis=-1).mean()
    assert 0.4 < dark < 0.6
    assert not len(find(draw(lines={"a": [2.0, 2.0, 2.0, 2.0]}), "black"))


def test_ticks_are_named_and_not_too_many() -> None:
    for num_places in (1, 4, 32, 100):
        names = [str(place) for place in range(num_places)]
        pixels = draw(lines={"a": [1.0] * num_places}, places=names)
        marks = (pixels[BOTTOM + 3, MARGIN_PX:] != 255).any(axis=-1).sum()
        assert 1 <= marks <= MAX_TICKS
        assert (pixels[BOTTOM + 6 : BOTTOM + 18] < 128).any(), "no name is written"
