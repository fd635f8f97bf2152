"""An item's encoded media to its views, 8 bits a channel, in the order in which they are stored.

Views of all media of an item stand one after the other: a picture's crops and then the whole picture, a
clip's frames in time. A clip's frames are rendered as they are decoded, so only the small views are held: at
most `max_frames` x 336 x 336 x 3 bytes, 174 MB for 512 frames.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from operators.feature_file import MediumShape
from operators.frames import FramePolicy
from operators.image import ImagePolicy, decode_image
from operators.preprocess import Processor, render_views
from operators.video import Backend, read_frames
from operators.views import Aspect, Layout, plan_views
from schemas.record import MediumKind


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderPolicy:
    """What decides the pixels of views; all of it stands in the feature spec."""

    layout: Layout
    aspect: Aspect
    processor: Processor
    image: ImagePolicy
    frames: FramePolicy
    backend: Backend


@dataclass(frozen=True, slots=True)
class RenderedMedium:
    """The views of one medium."""

    views: UInt8[np.ndarray, "views height width 3"]
    shape: MediumShape
    frame_times_s: tuple[float, ...]
    """When a clip's frames were on display, after its first; empty for pictures."""
    num_damaged_packets: int = 0
    backend: Backend | None = None
    """Which reader gave a clip's frames; None for pictures."""


def render_medium(data: bytes, kind: MediumKind, policy: RenderPolicy) -> RenderedMedium:
    """Decode one medium and cut its views.

    Raises:
        SampleError: when it does not decode.
    """
    return _render_image(data, policy) if kind is MediumKind.IMAGE else _render_video(data, policy)


def _render_image(data: bytes, policy: RenderPolicy) -> RenderedMedium:
    image = decode_image(data, policy.image)
    views = render_views(image, plan_views(*image.size, policy.layout, policy.aspect), policy.processor)
    return RenderedMedium(views, MediumShape(1, len(views)), ())


def _render_video(data: bytes, policy: RenderPolicy) -> RenderedMedium:
    report, frames = read_frames(data, policy.frames, policy.backend)
    times_s: list[float] = []
    views: list[UInt8[np.ndarray, "1 height width 3"]] = []
    for frame in frames:
        image = Image.fromarray(frame.pixels)
        times_s.append(frame.time_s)
        views.append(render_views(image, plan_views(*image.size, "global", policy.aspect), policy.processor))
    return RenderedMedium(
        np.concatenate(views), MediumShape(len(views), 1), tuple(times_s), report.num_damaged, report.backend
    )
