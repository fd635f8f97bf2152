"""Which frames of a clip become views: pure functions over timestamps, no pixels.

One contract: view k shows the frame **on display** at the clip's first timestamp + k x period, that is the
last frame whose timestamp is not later. `fps: F` has the period 1/F; where that gives more than `max_frames`,
and with `uniform: N`, the period is duration / N, so that the views cover the clip evenly. A clip ends when
its last frame ends, and always has at least one view.

`uniform: N, rule: reference` is the published choice instead: the clip's frames are counted, cut into N
segments, and the middle frame of each is taken (LLaVA-Mini, Video-ChatGPT, `get_seq_frames`); a clip of fewer
frames is cut into as many segments as it has frames, and then rounding may take one twice. It is wrong in
time where the frame rate varies; it is there to repeat published runs.

Counting frames instead (`range(0, n, round(fps))`, the usual idiom) drifts at 29.97 frames a second and is
wrong by whole shots at variable rates. A frame that comes on display within 0.6 ms after a chosen time counts
as on display: Matroska, WebM and FLV round times to milliseconds, so half of one means nothing.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

TOLERANCE_S: Final = 6e-4

Rule = Literal["even", "reference"]

Frame = TypeVar("Frame")


@dataclass(frozen=True, slots=True, kw_only=True)
class FramePolicy:
    """Give `fps` (with its cap) or `uniform`; part of the feature spec."""

    fps: float | None = 1.0
    uniform: int | None = None
    max_frames: int = 512
    rule: Rule = "even"
    """How `uniform` spreads: evenly over the time, or over the frames as the published loader does."""

    def __post_init__(self) -> None:
        if (self.fps is None) == (self.uniform is None):
            raise ValueError("give either fps or uniform, not both")
        if self.rule == "reference" and self.uniform is None:
            raise ValueError("the rule of the reference goes with uniform")


def choose_displayed(
    frame_times_s: Sequence[float], duration_s: float, policy: FramePolicy
) -> tuple[float, ...]:
    """When the views of a clip are taken, whose frames come on display at these times (from 0, ascending)."""
    if policy.rule == "reference":
        middles = choose_middles(len(frame_times_s), policy.uniform or 1)
        return tuple(frame_times_s[index] for index in middles)
    return choose_times(duration_s, policy)


def choose_times(duration_s: float, policy: FramePolicy) -> tuple[float, ...]:
    """When the views are taken, in seconds after the clip's first timestamp; ascending, from 0."""
    num_frames, period_s = _choose_period(max(duration_s, 0.0), policy)
    return tuple(index * period_s for index in range(num_frames))


def choose_middles(num_frames: int, num_segments: int) -> tuple[int, ...]:
    """Indices of the frames in the middle of equal segments, by the arithmetic of the published loader."""
    num_segments = min(num_frames, num_segments)
    size = (num_frames - 1) / max(num_segments, 1)
    return tuple((round(size * index) + round(size * (index + 1))) // 2 for index in range(num_segments))


def count_frames(duration_s: float, policy: FramePolicy) -> int:
    """How many views a clip gives, without listing them; at most as many, by the rule of the reference."""
    return _choose_period(max(duration_s, 0.0), policy)[0]


def count_left_out(duration_s: float, policy: FramePolicy) -> int:
    """How many views `fps` asks for beyond `max_frames`."""
    if policy.fps is None:
        return 0
    return max(0, _count_before(max(duration_s, 0.0), policy.fps) - policy.max_frames)


def _choose_period(duration_s: float, policy: FramePolicy) -> tuple[int, float]:
    if policy.fps is None:
        num_frames = policy.uniform or 1
        return num_frames, duration_s / num_frames
    num_frames = _count_before(duration_s, policy.fps)
    if num_frames > policy.max_frames:
        return policy.max_frames, duration_s / policy.max_frames
    return num_frames, 1 / policy.fps


def _count_before(duration_s: float, fps: float) -> int:
    """How many multiples of 1/fps lie before the end: ceil(duration x fps), at least one."""
    whole = int((duration_s - TOLERANCE_S) * fps)
    return max(1, whole + 1) if duration_s > TOLERANCE_S else 1


def pick_displayed(
    frames: Iterable[tuple[float, Frame]], times_s: Sequence[float]
) -> Iterator[tuple[int, float, Frame]]:
    """For each chosen time the frame on display: (index of the time, the frame's own time, the frame).

    `frames` come in decoding order with seconds after the first timestamp. One that is not later than its
    predecessor never comes on display. Two frames are held at a time, whatever the clip's length. Times past
    the last frame show the last frame.
    """
    index = 0
    shown: tuple[float, Frame] | None = None
    for time_s, frame in frames:
        if shown is not None and time_s <= shown[0]:
            continue
        while shown is not None and index < len(times_s) and time_s > times_s[index] + TOLERANCE_S:
            yield index, *shown
            index += 1
        if index == len(times_s):
            return
        shown = time_s, frame
    while shown is not None and index < len(times_s):
        yield index, *shown
        index += 1
