"""What a demuxer passes over in silence is counted; sound clips of every kind lose nothing."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest
from indexed_clips import CLIPS, HEIGHT, WIDTH, encode_clip, make_clip, read_index

from operators.frames import FramePolicy
from operators.packet_gaps import CloseCounter
from operators.video import read_frames, read_video_facts
from schemas.errors import RejectCode, SampleError

EVERY_FRAME = FramePolicy(fps=100.0, max_frames=10_000)


def zero_third(data):
    third = len(data) // 3
    return data[:third] + bytes(third) + data[2 * third :]


def leave_out_third(data):
    third = len(data) // 3
    return data[:third] + data[2 * third :]


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        *((name, zero_third) for name in ("webm", "webm-vp8", "avi", "flv", "ts-late-start")),
        ("ts-late-start", leave_out_third),
    ],
)
def test_a_clip_without_its_middle_is_rejected(name, harm):
    """Its other packets decode: without counting it would be a sound clip whose picture stands still."""
    assert read_frames(make_clip(name), EVERY_FRAME)[0].num_damaged == 0
    with pytest.raises(SampleError, match="are not there") as caught:
        read_frames(harm(make_clip(name)), EVERY_FRAME)
    assert caught.value.code is RejectCode.DAMAGED_VIDEO
    with pytest.raises(SampleError, match="are not there"):
        read_video_facts(harm(make_clip(name)))


def test_as_many_are_missing_as_do_not_come():
    """MPEG-TS is numbered, so the count is exact; one packet more is there in part."""
    data = make_clip("ts-late-start")
    num_written = len(CLIPS["ts-late-start"][2])
    for start, end in ((60, 64), (30, 45), (40, 41)):
        with av.open(io.BytesIO(data[: start * 188] + data[end * 188 :]), format="mpegts") as container:
            num_there = sum(packet.size > 0 for packet in container.demux(video=0))
        damaged = data[: start * 188] + data[end * 188 :]
        try:
            report, frames = read_frames(damaged, EVERY_FRAME)
        except SampleError as reject:
            num_lost = int(reject.message.split()[2])
        else:
            num_lost = report.num_damaged
            assert len(list(frames)) > 200
        assert num_written - num_there <= num_lost <= num_written - num_there + 1
        assert num_lost > 0


def encode_with_sound(container, video_codec, audio_codec):
    """Sound in packets far larger than the pictures."""
    buffer = io.BytesIO()
    generator = np.random.default_rng(0)
    with av.open(buffer, "w", format=container) as output:
        pictures = output.add_stream(video_codec, rate=10)
        pictures.width, pictures.height, pictures.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        sound = output.add_stream(audio_codec, rate=48_000)
        sound.layout = "stereo"
        for index in range(30):
            pixels = generator.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            output.mux(pictures.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            samples = generator.integers(-9000, 9000, (1, 9600), dtype=np.int16)
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="stereo")
            frame.sample_rate, frame.pts = 48_000, index * 4800
            for resampled in av.AudioResampler(sound.format, "stereo", 48_000).resample(frame):
                output.mux(sound.encode(resampled))
        output.mux(pictures.encode())
        output.mux(sound.encode())
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("container", "video_codec", "audio_codec"),
    [
        ("matroska", "mpeg4", "pcm_s16le"),
        ("avi", "mpeg4", "pcm_s16le"),
        ("avi", "mpeg2video", "mp2"),
        ("mpegts", "mpeg2video", "mp2"),
    ],
)
def test_sound_between_the_pictures_is_no_hole(container, video_codec, audio_codec):
    report, frames = read_frames(encode_with_sound(container, video_codec, audio_codec), FramePolicy(fps=2.0))
    assert (len(list(frames)), report.num_damaged) == (6, 0)


def test_transparency_behind_the_pictures_is_no_hole():
    """WebM keeps it beside the packets, and half of this file is transparency."""
    buffer, generator = io.BytesIO(), np.random.default_rng(0)
    with av.open(buffer, "w", format="webm") as output:
        stream = output.add_stream("libvpx-vp9", rate=10, options={"cpu-used": "8", "deadline": "realtime"})
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 320, 240, "yuva420p", 4_000_000
        for _ in range(8):
            pixels = generator.integers(0, 256, (240, 320, 4), dtype=np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgba")))
        output.mux(stream.encode())
    report, frames = read_frames(buffer.getvalue(), FramePolicy(fps=10.0))
    assert (len(list(frames)), report.num_damaged) == (8, 0)


def test_pictures_that_were_never_written_are_no_hole():
    """AVI holds a chunk without bytes for each frame that stays on display."""
    times = [0, 1, 2, 10, 11, 12, 90, 91]
    data = encode_clip("avi", "mpeg4", times, time_base=Fraction(1, 10), rate=10)
    report, frames = read_frames(data, FramePolicy(fps=10.0))
    shown = [max(index for index, time in enumerate(times) if time <= tick) for tick in range(92)]
    assert [read_index(frame.pixels) for frame in frames] == shown
    assert report.num_damaged == 0


@pytest.mark.parametrize("seed", range(20))
def test_holes_are_those_bytes_that_no_packet_covers(seed):
    """Against a bitmap of the file, with packets in any order, some of them without a place of their own."""
    generator = np.random.default_rng(seed)
    counter, covered, packets, place = CloseCounter(400_000), np.zeros(400_000, bool), [], 1000
    while place < 380_000:
        size = int(generator.integers(1, 9000))
        packets.append((place, min(size, 399_990 - place)))
        place += size + int(generator.choice([0, 20, 4000, 4097, 20_000], p=[0.4, 0.3, 0.1, 0.1, 0.1]))
    for place, size in (packets[index] for index in generator.permutation(len(packets))):
        first = size // 2
        counter.cover(place, first)
        counter.cover(None, size - first)
        covered[place : place + size] = True
    edges = np.flatnonzero(np.diff(np.concatenate([[0], ~covered, [0]]).astype(int)))
    holes = [(start, end) for start, end in edges.reshape(-1, 2) if start > 0]
    num_lost_bytes = sum(end - start for start, end in holes[:-1] if end - start > 4096)
    assert holes[-1][1] == 400_000
    if holes[-1][1] - holes[-1][0] > 4096 + 32 * len(packets):
        num_lost_bytes += holes[-1][1] - holes[-1][0]
    assert counter.count_lost(1000) == -(-1000 * num_lost_bytes // (400_000 - num_lost_bytes))
