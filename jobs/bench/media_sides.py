"""Both sides of the media benchmark: what each does with one picture or clip.

The rival for pictures is what published loaders do: Pillow opens and pads, transformers' processor does the
rest, once a view. For clips it is PyAV alone: every frame decoded on one thread, none converted or kept.
"""

import io
from pathlib import Path
from typing import Any, Final, cast

import av
import numpy as np
import torch
from jaxtyping import Float32
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from operators.fast_resize import render_views_fast
from operators.frames import FramePolicy
from operators.image import decode_image
from operators.preprocess import CLIP_PROCESSOR, normalize_views, render_views
from operators.video import read_frames
from operators.views import Layout, plan_views

_SIZE_PX: Final = CLIP_PROCESSOR.size_px
_PROCESSOR: Final = cast("Any", CLIPImageProcessorPil)(
    size={"shortest_edge": _SIZE_PX}, crop_size={"height": _SIZE_PX, "width": _SIZE_PX}
)

Pixels = Float32[torch.Tensor, "views 3 height width"]


def encode_picture(data: bytes, layout: Layout) -> Pixels:
    """Ours: JPEG bytes to encoder input."""
    image = decode_image(data)
    views = plan_views(*image.size, layout, "pad")
    return torch.as_tensor(normalize_views(render_views(image, views, CLIP_PROCESSOR), CLIP_PROCESSOR))


def encode_picture_by_rival(data: bytes, layout: Layout) -> Pixels:
    """Theirs: the same tensor, bit for bit."""
    with Image.open(io.BytesIO(data)) as image:
        square = _pad(image.convert("RGB"))
    cuts = [square] if layout == "global" else [*_cut(square), square]
    return torch.cat([_PROCESSOR(cut, return_tensors="pt")["pixel_values"] for cut in cuts])


def preprocess_exactly(image: Image.Image, layout: Layout) -> Float32[np.ndarray, "views 3 height width"]:
    """Ours without decoding."""
    views = plan_views(*image.size, layout, "pad")
    return normalize_views(render_views(image, views, CLIP_PROCESSOR), CLIP_PROCESSOR)


def preprocess_fast(image: Image.Image, layout: Layout) -> Float32[np.ndarray, "views 3 height width"]:
    """Ours, the opt-in way."""
    views = plan_views(*image.size, layout, "pad")
    return normalize_views(render_views_fast(image, views, CLIP_PROCESSOR), CLIP_PROCESSOR)


def sample_clip(path: Path) -> int:
    """Ours: the frames on display at one a second, as RGB; returns how many there were."""
    with path.open("rb", buffering=0) as file:
        _, frames = read_frames(file, FramePolicy(max_frames=100_000))
        return sum(1 for _ in frames)


def decode_clip(path: Path) -> int:
    """Theirs: every frame decoded; returns how many there were."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "SLICE"
        stream.codec_context.thread_count = 1
        return sum(1 for _ in container.decode(stream))


def _pad(image: Image.Image) -> Image.Image:
    side = max(image.size)
    square = Image.new("RGB", (side, side), CLIP_PROCESSOR.fill_color)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def _cut(square: Image.Image) -> list[Image.Image]:
    half = square.width // 2
    corners = [(left, top) for top in (0, half) for left in (0, half)]
    return [square.crop((left, top, left + half, top + half)) for left, top in corners]
