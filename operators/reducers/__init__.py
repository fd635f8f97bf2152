"""Fewer tokens from a view's patches: choosing, mixing, or asking; see the README beside."""

from operators.reducers.frames import ReducedFrames, reduce_frames
from operators.reducers.interface import Focus, Reducer, TokenBounds, ViewFeatures, reduce_view
from operators.reducers.registry import build_reducer, build_trained_reducer

__all__ = [
    "Focus",
    "ReducedFrames",
    "Reducer",
    "TokenBounds",
    "ViewFeatures",
    "build_reducer",
    "build_trained_reducer",
    "reduce_frames",
    "reduce_view",
]
