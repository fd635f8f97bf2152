"""Fewer tokens from a view's patches: choosing, mixing, or asking; see the README beside."""

from operators.reducers.frames import ReducedFrames, reduce_frames, reduce_views
from operators.reducers.interface import Focus, Reducer, TokenBounds, ViewFeatures, reduce_view
from operators.reducers.registry import bound_frame_tokens, build_reducer, build_trained_reducer

__all__ = [
    "Focus",
    "ReducedFrames",
    "Reducer",
    "TokenBounds",
    "ViewFeatures",
    "bound_frame_tokens",
    "build_reducer",
    "build_trained_reducer",
    "reduce_frames",
    "reduce_view",
    "reduce_views",
]
