"""Which of an item's stored views an example needs: pure functions over counts.

The whole picture stands last in a frame and may be read alone; a clip may be thinned. What is not
chosen is not read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from operators.batch import MediumFeatures
from operators.feature_file import MediumShape
from schemas.stream import FramesConfig

ViewChoice: TypeAlias = Literal["all", "whole"]
"""All views of a frame, or the whole picture alone."""


@dataclass(frozen=True, slots=True)
class ChosenMedium:
    """ViewChoice of one medium, by their place in the item, frame by frame."""

    views: tuple[int, ...]
    shape: MediumShape


def select_frames(num_frames: int, config: FramesConfig) -> tuple[int, ...]:
    """Places of the frames that are used: all, the first `max`, or the middles of `uniform` equal parts."""
    if config.max is not None:
        return tuple(range(min(num_frames, config.max)))
    if config.uniform is None or config.uniform >= num_frames:
        return tuple(range(num_frames))
    return tuple((2 * part + 1) * num_frames // (2 * config.uniform) for part in range(config.uniform))


def select_features(features: MediumFeatures, views: ViewChoice, frames: FramesConfig) -> MediumFeatures:
    """The same choice from features that are at hand already."""
    patches = features.patches
    features.check_whole()
    chosen = choose_views([MediumShape(patches.shape[0], patches.shape[1])], views, frames)[0]
    grid = (chosen.shape.num_frames, chosen.shape.views_per_frame)
    kept = patches.flatten(0, 1)[list(chosen.views)]
    rows = features.class_rows
    if rows is not None:
        rows = rows.flatten(0, 1)[list(chosen.views)].reshape(*grid, -1)
    return MediumFeatures(kept.reshape(*grid, *kept.shape[1:]), rows)


def choose_views(media: Sequence[MediumShape], views: ViewChoice, frames: FramesConfig) -> list[ChosenMedium]:
    """The views of each medium that are read."""
    chosen: list[ChosenMedium] = []
    start = 0
    for medium in media:
        first = medium.views_per_frame - 1 if views == "whole" else 0
        kept = select_frames(medium.num_frames, frames)
        places = tuple(
            start + frame * medium.views_per_frame + view
            for frame in kept
            for view in range(first, medium.views_per_frame)
        )
        chosen.append(ChosenMedium(places, MediumShape(len(kept), medium.views_per_frame - first)))
        start += medium.num_views
    return chosen


def find_runs(places: Sequence[int]) -> list[tuple[int, int]]:
    """First and last of each run of adjacent places."""
    runs: list[tuple[int, int]] = []
    for place in places:
        if runs and place == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], place)
        else:
            runs.append((place, place))
    return runs
