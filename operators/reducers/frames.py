"""Reducers over frames: view by view, in the order of the views, and ragged results side by side.

The padding rule: tokens of a frame stand first, zeros after them up to the longest frame, and `counts` says
where they end. What stands in the padding is never read: whoever lays frames out in rows moves it behind
everything else, or leaves it out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from operators.class_attention import AttentionWeights
from operators.reducers.focus import focus_view
from operators.reducers.interface import Reducer, ViewFeatures, reduce_view


@dataclass(frozen=True, slots=True)
class ReducedFrames:
    """Tokens of some frames; padding on the right."""

    tokens: Float[Tensor, "frames longest width"]
    counts: tuple[int, ...]
    """Tokens of each frame."""

    def select(self, first: int, last: int) -> "ReducedFrames":
        """The frames of a range, as long as the longest of all."""
        return ReducedFrames(self.tokens[first:last], self.counts[first:last])


def reduce_frames(
    reducer: Reducer,
    frames: Float[Tensor, "frames views patches width"],
    class_rows: Float[Tensor, "frames views width"] | None = None,
    weights: AttentionWeights | None = None,
) -> ReducedFrames:
    """The tokens of all views of each frame, one view after the other.

    Args:
        reducer: what is applied to each view.
        frames: cached patches.
        class_rows: cached class rows, for reducers that need a focus.
        weights: the attention weights of the features' spec, likewise.

    Raises:
        ConfigError: the reducer cannot reduce such views.
        MismatchError: it needs class rows and weights, and one of them is missing.
    """
    reduced: list[Tensor] = []
    for number, frame in enumerate(frames):
        rows = class_rows[number] if class_rows is not None else None
        reduced.append(torch.cat(reduce_views(reducer, frame, rows, weights)))
    return pad_frames(reduced)


def pad_frames(frames: Sequence[Float[Tensor, "_ width"]]) -> ReducedFrames:
    """Frames of any number of tokens by the padding rule."""
    return ReducedFrames(
        pad_sequence(list(frames), batch_first=True), tuple(frame.shape[0] for frame in frames)
    )


def reduce_views(
    reducer: Reducer,
    views: Float[Tensor, "views patches width"],
    class_rows: Float[Tensor, "views width"] | None,
    weights: AttentionWeights | None,
) -> list[Tensor]:
    """The tokens of each view; see `reduce_frames`."""
    reduced: list[Tensor] = []
    for number, patches in enumerate(views):
        focus = None
        if reducer.needs_focus and class_rows is not None and weights is not None:
            focus = focus_view(class_rows[number], patches, weights)
        reduced.append(reduce_view(reducer, ViewFeatures(patches, focus)))
    return reduced
