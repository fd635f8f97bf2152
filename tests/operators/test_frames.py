"""Frame choice against a slow reference that looks at every timestamp."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.frames import TOLERANCE_S, FramePolicy, choose_times, count_frames, pick_displayed

# On a grid of 10 ms, so that no timestamp lies within the tolerance of a chosen time.
TIMELINES = st.lists(st.integers(1, 400), min_size=0, max_size=40).map(
    lambda gaps: [sum(gaps[:count]) / 100 for count in range(len(gaps) + 1)]
)
POLICIES = st.one_of(
    st.builds(FramePolicy, fps=st.sampled_from([0.5, 1.0, 2.0, 4.0, 5.0]), max_frames=st.integers(1, 60)),
    st.builds(FramePolicy, fps=st.none(), uniform=st.integers(1, 20)),
)


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
