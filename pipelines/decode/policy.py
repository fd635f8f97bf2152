"""From what a recipe says of views to what rendering follows."""

from operators.frames import FramePolicy
from operators.image import DEFAULT_IMAGE_POLICY
from operators.preprocess import Processor
from operators.render import RenderPolicy
from schemas.recipe import VideoViews, ViewsConfig


def rendering_of(views: ViewsConfig, processor: Processor) -> RenderPolicy:
    """What decides the pixels of views, for an encoder with this processor."""
    return RenderPolicy(
        layout=views.image,
        aspect=views.aspect,
        processor=processor,
        image=DEFAULT_IMAGE_POLICY,
        frames=frames_of(views.video),
        backend=views.video.backend,
        preprocess=views.preprocess,
    )


def frames_of(video: VideoViews) -> FramePolicy:
    """Which frames of a clip become views."""
    return FramePolicy(fps=video.fps, uniform=video.uniform, max_frames=video.max_frames, rule=video.rule)
