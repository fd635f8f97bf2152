"""A line chart drawn by Pillow: names and ticks of both axes, a color a line, a level to compare with.

A plotting library would be a dependency, and a dozen more with it, for three pictures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from PIL import Image, ImageDraw

SIZE_PX: Final = (720, 420)
MARGIN_PX: Final = 50
MAX_TICKS: Final = 16
DASH_PX: Final = 6
COLORS: Final = ("#4363d8", "#e6194b", "#3cb44b", "#f58231")
GRAY: Final = "#888888"


@dataclass(frozen=True, slots=True, kw_only=True)
class LineChart:
    """What is drawn, from zero up."""

    lines: Mapping[str, Sequence[float]]
    """A value for each place, by the name of the line."""
    places: Sequence[str]
    """Names along the horizontal axis; where they are many, some are written."""
    across: str
    """What the places are."""
    level: tuple[str, float] | None = None
    """A value that belongs to no place, with its name."""


def draw_chart(chart: LineChart) -> Image.Image:
    """The picture."""
    image = Image.new("RGB", SIZE_PX, "white")
    draw = ImageDraw.Draw(image)
    values = [value for line in chart.lines.values() for value in line]
    highest = max([*values, chart.level[1] if chart.level else 0.0], default=0.0) or 1.0
    right, bottom = (size - MARGIN_PX for size in SIZE_PX)
    step = (right - MARGIN_PX) / max(1, len(chart.places) - 1)

    def locate(place: int, value: float) -> tuple[float, float]:
        return MARGIN_PX + place * step, bottom - (bottom - MARGIN_PX) * value / highest

    draw.rectangle((MARGIN_PX, MARGIN_PX, right, bottom), outline=GRAY)
    for value in (0.0, highest / 2, highest):
        draw.text((4, locate(0, value)[1] - 6), f"{value:.3g}", fill="black")
    for place in range(0, len(chart.places), -(-len(chart.places) // MAX_TICKS)):
        left = locate(place, 0.0)[0]
        draw.line((left, bottom, left, bottom + 4), fill=GRAY)
        draw.text((left, bottom + 6), chart.places[place], fill="black", anchor="ma")
    draw.text((SIZE_PX[0] / 2, SIZE_PX[1] - 18), chart.across, fill="black", anchor="ma")
    if chart.level:
        name, value = chart.level
        height = locate(0, value)[1]
        for left in range(MARGIN_PX, right, 2 * DASH_PX):
            draw.line((left, height, left + DASH_PX, height), fill="black")
        draw.text((right - 4, height + 4), name, fill="black", anchor="ra")
    for number, (name, line) in enumerate(chart.lines.items()):
        color = COLORS[number % len(COLORS)]
        draw.line([locate(place, value) for place, value in enumerate(line)], fill=color, width=3)
        draw.text((MARGIN_PX + 8 + 140 * number, 20), name, fill=color)
    return image
