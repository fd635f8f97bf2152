"""Frame choice against a slow reference that looks at every timestamp."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.frames import (
    TOLERANCE_S,
    FramePolicy,
    choose_displayed,
    choose_middles,
    choose_times,
    count_frames,
    count_left_out,
    pick_displayed,
)

# On a grid of 10 ms, so that no timestamp lies within the tolerance of a chosen time.
TIMELINES = st.lists(st.integers(1, 400), min_size=0, max_size=40).map(
    lambda gaps: [sum(gaps[:count]) / 100 for count in range(len(gaps) + 1)]
)
POLICIES = st.one_of(
    st.builds(FramePolicy, fps=st.sampled_from([0.5, 1.0, 2.0, 4.0, 5.0]), max_frames=st.integers(1, 60)),
    st.builds(FramePolicy, fps=st.none(), uniform=st.integers(1, 20)),
)
REFERENCE = FramePolicy(fps=None, uniform=8, rule="reference")


def displayed_at(timeline, time_s):
    """The last frame that is not later."""
    return max(index for index, frame_s in enumerate(timeline) if frame_s <= time_s + TOLERANCE_S)


@given(TIMELINES, st.sampled_from([0.01, 0.5, 3.0]), POLICIES)
def test_the_frame_on_display_is_picked(timeline, last_s, policy):
    times_s = choose_times(timeline[-1] + last_s, policy)
    picked = list(pick_displayed(((time_s, index) for index, time_s in enumerate(timeline)), times_s))
    assert [index for index, _, _ in picked] == list(range(len(times_s)))
    assert [frame for _, _, frame in picked] == [displayed_at(timeline, time_s) for time_s in times_s]
    assert [time_s for _, time_s, _ in picked] == [timeline[frame] for _, _, frame in picked]


@given(st.integers(0, 100_000).map(lambda ticks: ticks / 100), POLICIES)
def test_times_cover_the_clip_evenly_from_its_start(duration_s, policy):
    times_s = choose_times(duration_s, policy)
    assert times_s[0] == 0
    assert len(times_s) == count_frames(duration_s, policy)
    assert len(times_s) == policy.uniform if policy.uniform else 1 <= len(times_s) <= policy.max_frames
    assert all(time_s < duration_s for time_s in times_s[1:]) or duration_s == 0
    gaps = [later - earlier for earlier, later in pairwise(times_s)]
    assert max(gaps, default=0) - min(gaps, default=0) < 1e-6


@given(st.integers(1, 10_000).map(lambda ticks: ticks / 100), st.sampled_from([0.5, 1.0, 2.0, 5.0]))
def test_fps_takes_every_multiple_before_the_end(duration_s, fps):
    expected = [
        index / fps for index in range(int(duration_s * fps) + 2) if index / fps < duration_s - TOLERANCE_S
    ]
    times_s = choose_times(duration_s, FramePolicy(fps=fps, max_frames=100_000))
    assert list(times_s) == pytest.approx(expected or [0.0])


@pytest.mark.parametrize("duration_s", [-1.0, 0.0, 1e-9, 0.01])
def test_every_clip_has_a_view(duration_s):
    assert choose_times(duration_s, FramePolicy()) == (0.0,)


def test_over_the_cap_the_views_spread_over_the_whole_clip():
    assert choose_times(100.0, FramePolicy(fps=1.0, max_frames=4)) == (0.0, 25.0, 50.0, 75.0)
    assert choose_times(4.0, FramePolicy(fps=1.0, max_frames=4)) == (0.0, 1.0, 2.0, 3.0)
    assert choose_times(100.0, FramePolicy(fps=None, uniform=4)) == (0.0, 25.0, 50.0, 75.0)


def published_middles(num_frames, num_wanted):
    """As the published loader has it, with numpy's rounding."""
    size = float(num_frames - 1) / num_wanted
    chosen = []
    for index in range(num_wanted):
        start, end = int(np.round(size * index)), int(np.round(size * (index + 1)))
        chosen.append((start + end) // 2)
    return chosen


@given(st.integers(1, 5000), st.integers(1, 40))
def test_the_reference_takes_the_middles_of_segments(num_frames, num_wanted):
    chosen = choose_middles(num_frames, num_wanted)
    assert list(chosen) == published_middles(num_frames, min(num_frames, num_wanted))
    assert list(chosen) == sorted(chosen)
    assert all(0 <= index < num_frames for index in chosen)


def test_the_reference_counts_frames_whatever_their_times():
    assert choose_middles(0, 8) == ()
    assert choose_middles(100, 8) == (6, 18, 31, 43, 56, 68, 80, 93)
    times_s = tuple(0.1 * index**2 for index in range(100))
    expected = tuple(times_s[index] for index in choose_middles(100, 8))
    assert choose_displayed(times_s, 1000.0, REFERENCE) == expected
    assert choose_displayed(times_s[:3], 1000.0, REFERENCE) == (times_s[0], times_s[1], times_s[1])
    assert choose_displayed(times_s, 8.0, FramePolicy(fps=None, uniform=8)) == tuple(range(8))


@given(st.integers(0, 100_000).map(lambda ticks: ticks / 100), POLICIES)
def test_what_is_left_out_is_what_fps_asks_for_beyond_the_cap(duration_s, policy):
    num_left_out = count_left_out(duration_s, policy)
    if policy.fps is None:
        assert num_left_out == 0
    else:
        uncapped = FramePolicy(fps=policy.fps, max_frames=10**6)
        wanted = count_frames(duration_s, uncapped)
        assert num_left_out == wanted - count_frames(duration_s, policy)


def test_frames_that_go_back_in_time_are_never_on_display():
    frames = [(0.0, "a"), (2.0, "b"), (1.0, "late"), (2.0, "again"), (3.0, "c")]
    assert [frame for _, _, frame in pick_displayed(frames, (0.0, 1.0, 2.0, 3.0))] == ["a", "a", "b", "c"]


def test_no_more_frames_are_read_than_needed():
    def frames():
        yield 0.0, "a"
        yield 1.0, "b"
        yield 2.0, "c"
        raise AssertionError("read past the last chosen time")

    assert [frame for _, _, frame in pick_displayed(frames(), (0.0, 1.0))] == ["a", "b"]


def test_a_clip_without_frames_gives_none():
    assert list(pick_displayed([], (0.0, 1.0))) == []


@pytest.mark.parametrize("options", [{"fps": 1.0, "uniform": 4}, {"fps": None}])
def test_one_policy_at_a_time(options):
    with pytest.raises(ValueError, match="either fps or uniform"):
        FramePolicy(**options)
    with pytest.raises(ValueError, match="goes with uniform"):
        FramePolicy(rule="reference")
