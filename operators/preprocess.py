"""Views to encoder input: bicubic resize to the encoder's size, then normalize; bit-equal to transformers.

Equal to `CLIPImageProcessorPil` on the cut view, bit for bit (tested), and about twice as fast:

- the processor turns pictures into arrays and back around every step; here Pillow resizes what it decoded;
- rescale and normalize of 8-bit values are a table of 256 x 3 numbers, built with the processor's arithmetic;
- padding is never drawn at full size. Pillow resizes rows first, then columns, and a constant row stays
  constant (its weights sum to one), so the rows of the picture are resized in bands and the fill is added at
  336 columns: a 64-megapixel ribbon needs some megabytes, not gigabytes.

`render_views` gives 8-bit pixels: the cheap form to move between processes. `normalize_views` gives floats.
No torch here: processes that only decode never load it. What torch resizes faster and one level off stands in
`operators.fast_resize`.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, cast

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from operators.views import Box, View
from schemas.errors import ConfigError

BAND_PIXELS: Final = 2**20
"""How much of a padded picture is drawn at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Processor:
    """The values of an encoder's image processor that decide pixels; part of the feature spec."""

    size_px: int = 336
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    resample: int = int(Image.Resampling.BICUBIC)
    rescale_factor: float = 1 / 255
    center_crop: bool = True
    """What becomes of a view that is no square: short side to size, then a centre crop (CLIP), or, if False,
    a stretch (SigLIP)."""

    @property
    def fill_color(self) -> tuple[int, int, int]:
        """The mean as a colour: what `pad` fills with; black would be far from what the encoder knows."""
        red, green, blue = (int(255 * channel) for channel in self.mean)
        return red, green, blue


CLIP_PROCESSOR: Final = Processor()
SIGLIP_PROCESSOR: Final = Processor(size_px=224, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), center_crop=False)


def parse_processor(text: str, usual: Processor = CLIP_PROCESSOR) -> Processor:
    """The values in a model's `preprocessor_config.json`.

    Mean, deviation, resampling and scale are the `usual` ones where it leaves them out; a view is cropped
    where a crop is named.

    Raises:
        ConfigError: no JSON object, no size, or a processor that does something else than this module.
    """
    try:
        loaded: object = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"preprocessor_config.json is no JSON: {error}") from error
    if not isinstance(loaded, dict):
        raise ConfigError("preprocessor_config.json must hold a JSON object")
    values = cast("dict[str, object]", loaded)
    for step in ("do_resize", "do_rescale", "do_normalize"):
        if values.get(step, True) is not True:
            raise ConfigError(
                f"preprocessor_config.json switches {step} off; only full processors are supported"
            )
    try:
        return Processor(
            size_px=_parse_size(values),
            mean=_parse_channels(values.get("image_mean", usual.mean)),
            std=_parse_channels(values.get("image_std", usual.std)),
            resample=int(Image.Resampling(cast("int", values.get("resample", usual.resample)))),
            rescale_factor=float(cast("float", values.get("rescale_factor", usual.rescale_factor))),
            center_crop=_does_crop(values),
        )
    except (TypeError, ValueError, KeyError) as error:
        raise ConfigError(f"preprocessor_config.json has a value that cannot be used: {error}") from error


def _parse_size(values: dict[str, object]) -> int:
    """The side of the square that comes out: `crop_size` where there is one, else `size`."""
    size = values["crop_size" if _does_crop(values) else "size"]
    if isinstance(size, dict):
        sides = set(cast("dict[str, int]", size).values())
        if len(sides) != 1:
            raise ValueError(f"views must be square, size is {size}")
        size = sides.pop()
    resized = values.get("size", size)
    if isinstance(resized, dict):
        resized = next(iter(cast("dict[str, int]", resized).values()))
    if resized != size:
        raise ValueError(f"resizing to {resized} and cropping to {size} is not supported; they must be equal")
    if not isinstance(size, int) or size <= 0:
        raise ValueError(f"size {size!r}")
    return size


def _does_crop(values: dict[str, object]) -> bool:
    return values.get("do_center_crop", "crop_size" in values) is True


def _parse_channels(value: object) -> tuple[float, float, float]:
    red, green, blue = (float(channel) for channel in cast("Sequence[float]", value))
    return red, green, blue


def render_views(
    image: Image.Image, views: Sequence[View], processor: Processor
) -> UInt8[np.ndarray, "views height width 3"]:
    """The views of an RGB picture at the encoder's size, 8 bits a channel."""
    return np.stack([render_view(image, view, processor) for view in views])


def normalize_views(
    rendered: UInt8[np.ndarray, "views height width 3"], processor: Processor
) -> Float32[np.ndarray, "views 3 height width"]:
    """Encoder input of rendered views: (value / 255 - mean) / std, channels first."""
    table = normalization_table(processor)
    num_views, height, width, _ = rendered.shape
    normalized = np.empty((num_views, 3, height, width), dtype=np.float32)
    for channel in range(3):
        # "wrap" is what skips the check of 8-bit indices into 256 entries, and halves the time.
        np.take(table[channel], rendered[..., channel], out=normalized[:, channel], mode="wrap")
    return normalized


def cut_view(image: Image.Image, box: Box, fill_color: tuple[int, int, int]) -> Image.Image:
    """The picture inside a box at full size, filled where the box reaches outside; for people to look at."""
    canvas = Image.new("RGB", (box.width, box.height), fill_color)
    canvas.paste(image, (-box.left, -box.top))
    return canvas


def render_view(image: Image.Image, view: View, processor: Processor) -> UInt8[np.ndarray, "height width 3"]:
    """One view of an RGB picture at the encoder's size, 8 bits a channel."""
    size_px, box = processor.size_px, view.box
    resample = Image.Resampling(processor.resample)
    if not _lies_inside(box, image):
        narrow = resize_rows(image, box, processor)
        return np.asarray(narrow.resize((size_px, size_px), resample))
    region = _cut_inside(image, box)
    if view.stretch or not processor.center_crop or box.width == box.height:
        return np.asarray(region.resize((size_px, size_px), resample))
    width, height = _scale_short_side(box.width, box.height, size_px)
    left, top = (width - size_px) // 2, (height - size_px) // 2
    resized = region.resize((width, height), resample)
    return np.asarray(resized.crop((left, top, left + size_px, top + size_px)))


def resize_rows(image: Image.Image, box: Box, processor: Processor) -> Image.Image:
    """The first of two passes over a box: rows at the encoder's width, and the fill."""
    size_px, fill_color = processor.size_px, processor.fill_color
    resample = Image.Resampling(processor.resample)
    if _lies_inside(box, image):
        return _cut_inside(image, box).resize((size_px, box.height), resample)
    narrow = Image.new("RGB", (size_px, box.height), fill_color)
    first = max(0, box.top)
    last = min(image.height, box.top + box.height)
    right = box.left + box.width
    if box.left >= 0 and right <= image.width:
        rows = _cut_inside(image, Box(box.left, first, box.width, last - first))
        narrow.paste(rows.resize((size_px, rows.height), resample), (0, first - box.top))
    else:
        for top, rows in _draw_bands(image, box, first, last, fill_color):
            narrow.paste(rows.resize((size_px, rows.height), resample), (0, top - box.top))
    return narrow


def _cut_inside(image: Image.Image, box: Box) -> Image.Image:
    """A box that lies inside; the whole picture is not copied, which matters for large ones."""
    if box == Box(0, 0, image.width, image.height):
        return image
    return image.crop((box.left, box.top, box.left + box.width, box.top + box.height))


def _lies_inside(box: Box, image: Image.Image) -> bool:
    right, bottom = box.left + box.width, box.top + box.height
    return min(box.left, box.top) >= 0 and right <= image.width and bottom <= image.height


def _scale_short_side(width: int, height: int, size_px: int) -> tuple[int, int]:
    """Size with the short side at `size_px`; the long side is cut to an integer as transformers does."""
    if width <= height:
        return size_px, int(size_px * height / width)
    return int(size_px * width / height), size_px


def _draw_bands(
    image: Image.Image, box: Box, first: int, last: int, fill_color: tuple[int, int, int]
) -> Iterator[tuple[int, Image.Image]]:
    """The rows from `first` to `last` at the box's full width, a million pixels at a time."""
    height = max(1, BAND_PIXELS // box.width)
    for top in range(first, last, height):
        yield top, cut_view(image, Box(box.left, top, box.width, min(height, last - top)), fill_color)


def normalization_table(processor: Processor) -> Float32[np.ndarray, "3 256"]:
    """Normalized value of every level of every channel, in the order of operations of transformers."""
    rescaled = (np.arange(256, dtype=np.float64) * processor.rescale_factor).astype(np.float32)
    mean = np.array(processor.mean, dtype=np.float32)[:, None]
    std = np.array(processor.std, dtype=np.float32)[:, None]
    return (rescaled[None, :] - mean) / std
