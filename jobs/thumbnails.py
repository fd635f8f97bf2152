"""Small pictures on a terminal: two pixels a character, the upper as its colour, the lower behind it."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from rich.color import Color
from rich.console import Console
from rich.segment import Segment, Segments
from rich.style import Style

THUMBNAIL_PX = 32
_GAP = Segment("  ")


def print_thumbnails(
    views: UInt8[np.ndarray, "views height width 3"], console: Console | None = None
) -> None:
    """The views side by side, as many in a row as the terminal is wide."""
    screen = console or Console()
    per_row = max(1, (screen.width + 2) // (THUMBNAIL_PX + 2))
    for start in range(0, len(views), per_row):
        small = [_shrink(view) for view in views[start : start + per_row]]
        for line in range(THUMBNAIL_PX // 2):
            segments = [segment for view in small for segment in (*_draw_line(view, line), _GAP)]
            screen.print(Segments([*segments, Segment.line()]), end="")
        screen.print()


def _shrink(view: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "small small 3"]:
    return np.asarray(Image.fromarray(view).resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX))


def _draw_line(view: UInt8[np.ndarray, "small small 3"], line: int) -> list[Segment]:
    upper, lower = view[2 * line].tolist(), view[2 * line + 1].tolist()
    return [
        Segment("▀", Style(color=Color.from_rgb(*above), bgcolor=Color.from_rgb(*below)))
        for above, below in zip(upper, lower, strict=True)
    ]
