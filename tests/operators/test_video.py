"""The reader returns the frame that the contract names, from clips whose frames carry their own index."""

from itertools import pairwise

import av
import numpy as np
import pytest
from indexed_clips import CLIPS, HEIGHT, WIDTH, draw_index, encode_clip, make_clip, read_index, steady

from operators.frames import TOLERANCE_S, FramePolicy, choose_times
from operators.sniff import HEAD_BYTES, sniff_format
from operators.video import read_frames, read_video_facts
from schemas.errors import RejectCode, SampleError


@pytest.fixture(scope="module")
def clips():
    return {name: make_clip(name) for name in CLIPS}


def published_indices(num_frames, num_wanted):
    """`get_seq_frames` of the published loader, which asks for no more frames than there are."""
    num_wanted = min(num_frames, num_wanted)
    size = float(num_frames - 1) / num_wanted
    edges = [int(np.round(size * index)) for index in range(num_wanted + 1)]
    return [(start + end) // 2 for start, end in pairwise(edges)]


def expected_indices(name, policy):
    """From the times that were written, by looking at every frame for every chosen time."""
    _, _, times, time_base, rate, _ = CLIPS[name]
    if policy.rule == "reference":
        return published_indices(len(times), policy.uniform)
    shown_s = [float((time - times[0]) * time_base) for time in times]
    last_s = 1 / rate if len(set(np.diff(times))) <= 1 else 0.01
    if name == "mp4-slow":
        last_s = 2.0
    chosen = choose_times(shown_s[-1] + last_s, policy)
    return [max(i for i, s in enumerate(shown_s) if s <= time + TOLERANCE_S) for time in chosen]


def collect(data, policy, backend="pyav"):
    report, frames = read_frames(data, policy, backend)
    return report, [(frame.index, read_index(frame.pixels)) for frame in frames]


POLICIES = [
    FramePolicy(),
    FramePolicy(fps=2.0),
    FramePolicy(fps=10.0, max_frames=6),
    FramePolicy(fps=None, uniform=5),
    FramePolicy(fps=None, uniform=8, rule="reference"),
]


@pytest.mark.parametrize("backend", ["pyav", "decord"])
@pytest.mark.parametrize("name", CLIPS)
def test_every_view_shows_the_frame_on_display(clips, name, backend):
    for policy in POLICIES:
        report, found = collect(clips[name], policy, backend)
        assert found == list(enumerate(expected_indices(name, policy))), policy
        assert report.num_damaged == 0
        assert report.num_packets >= len(CLIPS[name][2])


def test_indices_are_readable_and_differ():
    """Guards the tests above: a reader that always returns one frame must fail them."""
    assert [read_index(draw_index(index)) for index in range(256)] == list(range(256))
    assert all(len(set(expected_indices(name, FramePolicy()))) > 1 for name in CLIPS if "one" not in name)


def test_decord_is_used_where_it_is_right_and_named(clips):
    used = {name: collect(clips[name], FramePolicy(), "decord")[0].backend for name in CLIPS}
    assert used["mp4"] == used["mp4-29.97"] == used["mkv-variable"] == used["webm"] == "decord"
    assert used["mp4-short-gop"] == used["webm-vp8"] == "decord"
    assert (
        used["mkv-av1"]
        == used["mp4-open-gop"]
        == used["avi"]
        == used["mpg"]
        == used["ts-late-start"]
        == used["flv"]
        == "pyav"
    )


def test_both_backends_give_the_same_pixels(clips):
    for name in ("mp4", "webm", "mkv-variable"):
        pixels = {}
        for backend in ("pyav", "decord"):
            report, frames = read_frames(clips[name], FramePolicy(fps=4.0), backend)
            pixels[backend] = [frame.pixels for frame in frames]
            assert report.backend == backend
        np.testing.assert_array_equal(np.stack(pixels["pyav"]), np.stack(pixels["decord"]))


def test_uniform_and_capped_choices_cover_the_clip(clips):
    for policy in (FramePolicy(fps=None, uniform=7), FramePolicy(fps=30.0, max_frames=7)):
        _, found = collect(clips["mp4"], policy)
        assert found == [(k, k * 105 // 7) for k in range(7)]


def test_what_the_cap_leaves_out_is_counted(clips):
    """3.5 s at 30 a second are 105."""
    for policy, num_left_out in (
        (FramePolicy(fps=30.0, max_frames=7), 98),
        (FramePolicy(fps=30.0, max_frames=105), 0),
        (FramePolicy(fps=1.0, max_frames=3), 1),
        (FramePolicy(fps=None, uniform=7), 0),
    ):
        report, frames = read_frames(clips["mp4"], policy)
        assert report.num_left_out == num_left_out
        assert len(list(frames)) == (policy.uniform or policy.max_frames)


def test_a_recording_that_starts_in_mid_group_begins_with_its_first_key_frame():
    """A key frame every 20 frames; what stands before the first decodes to nothing."""
    times, time_base, rate = steady(120)
    data = encode_clip("mpegts", "libx264", times, time_base=time_base, rate=rate, options={"g": "20"})
    cut = data[len(data) // 188 * 3 // 10 * 188 :]
    report, found = collect(cut, FramePolicy(fps=2.0))
    first = found[0][1]
    assert first in (20, 40, 60)
    assert [index for _, index in found] == list(range(first, 120, 15))
    assert report.num_damaged == 0
    assert read_video_facts(cut).duration_s == pytest.approx((120 - first) / 30)


def hide_start(data, num_frames, ticks_per_frame=512):
    """Writes an edit list that begins later into the clip: frames before that are decoded and not shown."""
    at = data.index(b"elst") + 16
    start = int.from_bytes(data[at : at + 4], "big") + num_frames * ticks_per_frame
    return data[:at] + start.to_bytes(4, "big") + data[at + 4 :]


@pytest.mark.parametrize("num_hidden", [1, 7, 31])
def test_frames_that_an_edit_list_hides_are_never_on_display(clips, num_hidden):
    data = hide_start(clips["mp4"], num_hidden)
    for backend in ("pyav", "decord"):
        report, found = collect(data, FramePolicy(fps=2.0), backend)
        assert [index for _, index in found] == list(range(num_hidden, 105, 15))
        assert report.backend == "pyav"
        assert report.num_damaged == 0


def test_facts_are_those_on_display(clips):
    facts = read_video_facts(clips["mp4"])
    assert (facts.format.extension, facts.width_px, facts.height_px) == ("mp4", WIDTH, HEIGHT)
    assert facts.duration_s == pytest.approx(3.5)
    assert facts.num_packets == 105
    assert read_video_facts(clips["mp4-late-start"]).duration_s == pytest.approx(2.5)
    assert read_video_facts(clips["ts-late-start"]).duration_s == pytest.approx(80 / 30)
    assert {name: sniff_format(clips[name][:HEAD_BYTES]).extension for name in CLIPS} == {
        name: name.split("-")[0] for name in CLIPS
    }


def rotate_by_header(data, degrees):
    """Writes a rotation matrix into the track header, as a phone does."""
    at = data.index(b"tkhd") + 44
    one = 1 << 16
    matrix = {90: (0, one, 0, -one, 0, 0), 180: (-one, 0, 0, 0, -one, 0), 270: (0, -one, 0, one, 0, 0)}[
        degrees
    ]
    packed = b"".join(value.to_bytes(4, "big", signed=True) for value in matrix)
    return data[:at] + packed + data[at + len(packed) :]


@pytest.mark.parametrize("degrees", [90, 180, 270])
@pytest.mark.parametrize("backend", ["pyav", "decord"])
def test_rotated_clips_come_upright(clips, degrees, backend):
    """A header of 90 degrees asks the player to turn the picture clockwise by as much."""
    data = rotate_by_header(clips["mp4"], degrees)
    facts = read_video_facts(data)
    report, frames = read_frames(data, FramePolicy(), backend)
    _, plain = read_frames(clips["mp4"], FramePolicy())
    assert report.backend == backend
    num_compared = 0
    for frame, original in zip(frames, plain, strict=True):
        np.testing.assert_array_equal(frame.pixels, np.rot90(original.pixels, -degrees // 90))
        assert (facts.height_px, facts.width_px) == frame.pixels.shape[:2]
        num_compared += 1
    assert num_compared == 4


def test_frames_stay_valid_after_the_next_one_is_read(clips):
    _, frames = read_frames(clips["mp4"], FramePolicy(fps=4.0))
    kept = [(read_index(frame.pixels), frame.pixels) for frame in frames]
    assert len({index for index, _ in kept}) == len(kept) > 3
    assert all(read_index(pixels) == index for index, pixels in kept)


def reject_code(data, policy=None):
    with pytest.raises(SampleError) as caught:
        list(read_frames(data, policy or FramePolicy())[1])
    return caught.value.code


def test_what_is_no_clip_is_rejected_by_name(clips):
    assert reject_code(b"") is RejectCode.EMPTY_FILE
    assert reject_code(b"<html></html>") is RejectCode.UNKNOWN_FORMAT
    assert reject_code(b"\xff\xd8\xff\xe0" + bytes(100)) is RejectCode.WRONG_KIND
    assert reject_code(clips["mp4"][: len(clips["mp4"]) // 2]) is RejectCode.TRUNCATED_VIDEO
    assert reject_code(b"\x00\x00\x00\x20ftypisom" + bytes(4000)) is RejectCode.DAMAGED_VIDEO


@pytest.mark.parametrize(
    "playlist",
    [
        b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n/etc/passwd\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\n",
    ],
)
def test_lists_of_other_files_are_never_opened(playlist):
    assert reject_code(playlist) is RejectCode.UNKNOWN_FORMAT


def test_a_cut_stream_keeps_what_stands_before_the_cut(clips):
    """MPEG-TS promises no length."""
    data, policy = clips["ts-late-start"], FramePolicy(fps=4.0)
    report, found = collect(data[: len(data) * 2 // 3], policy)
    expected = expected_indices("ts-late-start", policy)
    assert 0 < len(found) < len(expected)
    assert [index for _, index in found] == expected[: len(found)]
    assert report.backend == "pyav"


@pytest.mark.parametrize("name", ["avi", "webm", "mkv-hevc"])
def test_a_little_cut_off_is_counted_and_more_is_rejected(clips, name):
    """These say in their header how long they are meant to be."""
    data, policy = clips[name], FramePolicy(fps=10.0)
    whole, _ = collect(data, policy)
    report, found = collect(data[: len(data) * 97 // 100], policy)
    expected = expected_indices(name, policy)
    assert len(expected) * 0.8 < len(found) <= len(expected)
    assert [index for _, index in found][:-1] == expected[: len(found) - 1]
    assert whole.num_damaged == 0 < report.num_damaged <= 0.1 * len(CLIPS[name][2])
    assert reject_code(data[: len(data) * 9 // 10]) is RejectCode.TRUNCATED_VIDEO
    with pytest.raises(SampleError, match="its header promises"):
        read_video_facts(data[: len(data) // 2])


def damage(data, share, seed):
    """Overwrites a share of the bytes of the middle, where the frames are."""
    generator = np.random.default_rng(seed)
    damaged = np.frombuffer(data, np.uint8).copy()
    middle = np.arange(len(data) // 10, len(data) * 9 // 10)
    at = generator.choice(middle, int(share * len(middle)), replace=False)
    damaged[at] = generator.integers(0, 256, len(at))
    return damaged.tobytes()


def test_much_damage_is_rejected_and_little_is_counted(clips):
    assert reject_code(damage(clips["mkv-hevc"], 0.2, 0)) is RejectCode.DAMAGED_VIDEO
    counts = []
    for seed in range(8):
        try:
            report, _ = collect(damage(clips["mp4-29.97"], 0.002, seed), FramePolicy())
        except SampleError as reject:
            counts.append(reject.code)
        else:
            counts.append(report.num_damaged)
    assert any(isinstance(count, int) and count > 0 for count in counts)


@pytest.mark.parametrize("name", ["mp4", "webm", "avi", "ts-late-start", "mpg", "flv"])
def test_damage_gives_frames_or_a_typed_reject(clips, name):
    num_read = num_rejected = 0
    for seed in range(12):
        data = damage(clips[name], 0.05 * (seed % 4 == 3) + 0.001 * seed, seed)
        data = data[: len(data) * (12 - seed // 3) // 12]
        try:
            _, found = collect(data, FramePolicy())
        except SampleError:
            num_rejected += 1
        else:
            num_read += bool(found)
    assert num_read + num_rejected == 12


MADE_CLIPS = {
    "made_h264_gop250_2min.mp4": [30 * second for second in range(120)],
    "made_h265_25_10s.mp4": [25 * second for second in range(10)],
    "made_vp9_10s.webm": [30 * second for second in range(10)],
    "made_mpeg4_bf_10s.avi": [25 * second for second in range(10)],
    "made_start5s.ts": [30 * second for second in range(10)],
    "made_slow_half_fps.mp4": [second // 2 for second in range(20)],
    "made_one_frame.mp4": [0],
}


@pytest.mark.real
@pytest.mark.parametrize("name", MADE_CLIPS)
@pytest.mark.parametrize("backend", ["pyav", "decord"])
def test_real_clips_with_an_index_give_the_right_frames(media_folder, name, backend):
    """These clips carry the index in the same blocks as ours, with 15 bits."""
    _, frames = read_frames((media_folder / "videos" / name).read_bytes(), FramePolicy(), backend)
    assert [read_index(frame.pixels, num_bits=15) for frame in frames] == MADE_CLIPS[name]


@pytest.mark.real
@pytest.mark.parametrize("name", ["made_vfr_h264.mp4", "made_editlist_cut.mp4"])
def test_real_clips_with_uneven_times_give_the_right_frames(media_folder, name):
    """Against all frames with their times, decoded one after the other."""
    path = media_folder / "videos" / name
    with av.open(str(path)) as container:
        shown = [
            (float(frame.pts * frame.time_base), read_index(frame.to_ndarray(format="rgb24"), num_bits=15))
            for frame in container.decode(video=0)
        ]
    chosen = choose_times(read_video_facts(path.read_bytes()).duration_s, FramePolicy())
    expected = [
        [index for at, index in shown if at <= shown[0][0] + time + TOLERANCE_S][-1] for time in chosen
    ]
    for backend in ("pyav", "decord"):
        _, frames = read_frames(path.read_bytes(), FramePolicy(), backend)
        assert [read_index(frame.pixels, num_bits=15) for frame in frames] == expected
    assert len(set(expected)) > 15
