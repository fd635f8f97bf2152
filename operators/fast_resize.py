"""The opt-in fast way to render views: torch's antialiased bicubic on bytes in place of Pillow's.

At most one 8-bit level off `operators.preprocess`, in a few values of a thousand: torch keeps its filter
weights in 16 bits where Pillow keeps 22. That a level stays a level takes care, for views are resized in two
passes and the second may double what the first got wrong:

- the second pass averages over few rows where a picture is scaled down little, or up; there the first pass is
  left to Pillow;
- Pillow resizes squares row by row first, and other boxes in an order of its own; views that are no squares
  (of `squash` and `published`) are left to it altogether.

What comes out depends on torch's version and on the processor's vector instructions, so both stand in the
feature spec beside `preprocess: fast`. Importing this loads torch; `operators.render` does so when asked.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional

from operators.preprocess import BAND_PIXELS, Processor, render_view, resize_rows
from operators.views import Box, View
from schemas.errors import ConfigError

_SAFE_SCALE: Final = 1.75
"""From here on down the second pass weighs no row with more than 0.57."""


def describe_resizer() -> str:
    """What decides the last bit of a view that is rendered here."""
    return f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"


def render_views_fast(
    image: Image.Image, views: Sequence[View], processor: Processor
) -> UInt8[np.ndarray, "views height width 3"]:
    """The views of an RGB picture at the encoder's size, 8 bits a channel.

    Raises:
        ConfigError: the encoder's filter is not bicubic.
    """
    if processor.resample != Image.Resampling.BICUBIC:
        raise ConfigError("preprocess: fast knows bicubic alone; use preprocess: exact with this encoder")
    picture = _to_tensor(image)
    return np.stack([_render_view(image, picture, view, processor) for view in views])


def _to_tensor(image: Image.Image) -> UInt8[Tensor, "height width 3"]:
    return torch.as_tensor(np.array(image))


def _render_view(
    image: Image.Image, picture: UInt8[Tensor, "height width 3"], view: View, processor: Processor
) -> UInt8[np.ndarray, "size size 3"]:
    size_px, box = processor.size_px, view.box
    if box.width != box.height or box.width == size_px:
        return render_view(image, view, processor)
    if box.width < _SAFE_SCALE * size_px:
        narrow = _to_tensor(resize_rows(image, box, processor))
    else:
        narrow = _resize_rows(picture, box, processor)
    return _resize(narrow, size_px, size_px).numpy()


def _resize_rows(
    picture: UInt8[Tensor, "height width 3"], box: Box, processor: Processor
) -> UInt8[Tensor, "side size 3"]:
    """See `operators.preprocess.resize_rows`; where columns are filled too, a million pixels at a time."""
    height, width, _ = picture.shape
    first, last = max(0, box.top), min(height, box.top + box.height)
    left, right = max(0, box.left), min(width, box.left + box.width)
    if (last - first, right - left) == (box.height, box.width):
        return _resize(picture[first:last, left:right], box.height, processor.size_px)
    narrow = _fill(box.height, processor.size_px, processor)
    is_whole = right - left == box.width
    step = last - first if is_whole else max(1, BAND_PIXELS // box.width)
    for top in range(first, last, step):
        rows = picture[top : min(top + step, last), left:right]
        if not is_whole:
            drawn = _fill(len(rows), box.width, processor)
            drawn[:, left - box.left : right - box.left] = rows
            rows = drawn
        at = top - box.top
        narrow[at : at + len(rows)] = _resize(rows, len(rows), processor.size_px)
    return narrow


def _fill(height: int, width: int, processor: Processor) -> UInt8[Tensor, "height width 3"]:
    row = np.tile(np.array(processor.fill_color, dtype=np.uint8), (1, width, 1))
    return torch.as_tensor(np.repeat(row, height, axis=0))


def _resize(
    region: UInt8[Tensor, "height width 3"], height: int, width: int
) -> UInt8[Tensor, "new_height new_width 3"]:
    # A batch dimension in front before channels move: else torch takes the strides for no known format, and
    # copies.
    channels_last = region[None].permute(0, 3, 1, 2)
    resized = functional.interpolate(channels_last, size=(height, width), mode="bicubic", antialias=True)
    return resized.permute(0, 2, 3, 1)[0]
