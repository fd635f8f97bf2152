"""A medium's encoded bytes to its views, 8 bits a channel, in the order in which they are stored.

A picture's crops and then the whole picture; a clip's frames in time. A clip's frames are rendered as they
are decoded, so only the small views are held: at most `max_frames` x 336 x 336 x 3 bytes, 174 MB for 512.

`render_picture` and `stream_clip` are what a decoding process runs (`pipelines.decode`). `render_medium` is
the same in one call, in this process, with nothing between a bad file and this process's life.
"""

import importlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from operators.completeness import ByteFile
from operators.frames import FramePolicy
from operators.image import ImagePolicy, decode_image
from operators.preprocess import Processor, render_views
from operators.video import Backend, VideoReport, read_frames
from operators.views import Aspect, Layout, plan_views
from schemas.record import MediumKind

Preprocess = Literal["exact", "fast"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderPolicy:
    """What decides the pixels of views; all of it stands in the feature spec."""

    layout: Layout
    aspect: Aspect
    processor: Processor
    image: ImagePolicy
    frames: FramePolicy
    backend: Backend
    preprocess: Preprocess = "exact"


@dataclass(frozen=True, slots=True)
class RenderedViews:
    """Views that come together: all of a picture, or one frame of a clip."""

    views: UInt8[np.ndarray, "views height width 3"]
    time_s: float = 0.0
    """When a clip's frame came on display, after its first."""


@dataclass(frozen=True, slots=True)
class RenderedMedium:
    """The views of one medium."""

    views: UInt8[np.ndarray, "views height width 3"]
    num_frames: int
    """1 for a picture."""
    frame_times_s: tuple[float, ...]
    """When a clip's frames came on display, after its first; empty for pictures."""
    report: VideoReport | None = None
    """What reading a clip showed; None for pictures."""

    @property
    def views_per_frame(self) -> int:
        """How many views there are of a picture or of a frame."""
        return len(self.views) // self.num_frames


def render_medium(data: bytes, kind: MediumKind, policy: RenderPolicy) -> RenderedMedium:
    """Decode one medium and cut its views, in this process.

    Raises:
        SampleError: when it does not decode.
    """
    if kind is MediumKind.IMAGE:
        return collect_views([render_picture(data, policy)], None)
    report, groups = stream_clip(data, policy)
    return collect_views(groups, report)


def render_picture(data: bytes, policy: RenderPolicy) -> RenderedViews:
    """The views of a picture.

    Raises:
        SampleError: when it does not decode.
    """
    image = decode_image(data, policy.image)
    return RenderedViews(_cut_views(image, policy.layout, policy))


def stream_clip(clip: bytes | ByteFile, policy: RenderPolicy) -> tuple[VideoReport, Iterator[RenderedViews]]:
    """The views of a clip, frame by frame, and the report that is complete when all have been read.

    Raises:
        SampleError: when it does not decode, here or on the way.
    """
    report, frames = read_frames(clip, policy.frames, policy.backend)
    groups = (
        RenderedViews(_cut_views(Image.fromarray(frame.pixels), "global", policy), frame.time_s)
        for frame in frames
    )
    return report, groups


def collect_views(groups: Iterable[RenderedViews], report: VideoReport | None) -> RenderedMedium:
    """All views of a medium in one array; the report tells a clip from a picture."""
    held = list(groups)
    views = held[0].views if len(held) == 1 else np.concatenate([group.views for group in held])
    if report is None:
        return RenderedMedium(views, 1, ())
    return RenderedMedium(views, len(held), tuple(group.time_s for group in held), report)


def load_libraries(policy: RenderPolicy) -> None:
    """Import now what rendering would import later, so that limits can be set on what is to come."""
    if policy.preprocess == "fast":
        importlib.import_module("operators.fast_resize")
    if policy.backend == "decord":
        importlib.import_module("decord")


def _cut_views(
    image: Image.Image, layout: Layout, policy: RenderPolicy
) -> UInt8[np.ndarray, "views height width 3"]:
    views = plan_views(*image.size, layout, policy.aspect)
    if policy.preprocess == "fast":
        from operators.fast_resize import render_views_fast

        return render_views_fast(image, views, policy.processor)
    return render_views(image, views, policy.processor)
