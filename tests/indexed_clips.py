"""Clips whose frames carry their own index in the picture, in many containers, codecs and timings."""

import functools
import io
from fractions import Fraction

import av
import numpy as np

WIDTH, HEIGHT, BLOCK = 160, 96, 16
BITS = 8


def draw_index(index):
    """A slow gradient with the index in black and white blocks along the top left."""
    pixels = np.full((HEIGHT, WIDTH, 3), 96, np.uint8)
    pixels[:, :, 1] = np.linspace(40, 200, WIDTH, dtype=np.uint8)
    for bit in range(BITS):
        pixels[:BLOCK, bit * BLOCK : (bit + 1) * BLOCK] = 255 * (index >> bit & 1)
    return pixels


def read_index(pixels, num_bits=BITS):
    blocks = [
        pixels[4 : BLOCK - 4, bit * BLOCK + 4 : (bit + 1) * BLOCK - 4].mean() > 128 for bit in range(num_bits)
    ]
    return sum(int(is_set) << bit for bit, is_set in enumerate(blocks))


def encode_clip(container, codec, times, *, time_base=Fraction(1, 1000), rate=30, options=None):
    """A clip whose frame i carries the index i and is shown at times[i] (in units of time_base)."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.bit_rate = 2_000_000
        stream.codec_context.time_base = time_base
        for index, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(draw_index(index), format="rgb24")
            frame.pts, frame.time_base = time, time_base
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return buffer.getvalue()


def steady(num_frames, rate=30, start=0):
    return [start + index for index in range(num_frames)], Fraction(1, rate), rate


X264 = {"g": "250", "bf": "3", "preset": "veryfast"}
VARIABLE = [0, 33, 66, 100, 400, 1400, 1410, 1420, 1900, 2050, 5000, 5033, 5066, 6999, 7000]
CLIPS = {
    "mp4": ("mp4", "libx264", *steady(105), X264),
    "mp4-29.97": ("mp4", "libx264", [1001 * index for index in range(200)], Fraction(1, 30000), 30, X264),
    "mp4-late-start": ("mp4", "libx264", *steady(75, start=47), X264),
    "mp4-variable": ("mp4", "libx264", VARIABLE, Fraction(1, 1000), 30, X264),
    "mp4-slow": ("mp4", "libx264", [2 * index for index in range(5)], Fraction(1, 1), 1, X264),
    "mp4-one-frame": ("mp4", "libx264", *steady(1), X264),
    "mov": ("mov", "mpeg4", *steady(70), {}),
    "mkv-hevc": (
        "matroska",
        "libx265",
        *steady(40),
        {"preset": "ultrafast", "x265-params": "log-level=none"},
    ),
    "mkv-variable": ("matroska", "libx264", VARIABLE, Fraction(1, 1000), 30, X264),
    "mkv-av1": ("matroska", "libsvtav1", *steady(70), {"preset": "10"}),
    "mp4-open-gop": (
        "mp4",
        "libx264",
        *steady(90),
        {"g": "15", "bf": "3", "preset": "veryfast", "x264-params": "open-gop=1"},
    ),
    "mp4-short-gop": ("mp4", "libx264", *steady(70), {"g": "10", "bf": "2", "preset": "veryfast"}),
    "webm-vp8": ("webm", "libvpx", *steady(45), {"cpu-used": "8", "deadline": "realtime"}),
    "webm": ("webm", "libvpx-vp9", *steady(65), {"cpu-used": "8", "deadline": "realtime"}),
    "ts-late-start": ("mpegts", "libx264", *steady(80, start=150), X264),
    "avi": ("avi", "mpeg4", *steady(80, 25), {"bf": "2"}),
    "mpg": ("mpeg", "mpeg2video", *steady(80, 25), {"bf": "2"}),
    "flv": ("flv", "flv", *steady(70), {}),
}


@functools.cache
def make_clip(name):
    """The bytes of one of `CLIPS`; encoded once, whoever asks."""
    container, codec, times, time_base, rate, options = CLIPS[name]
    return encode_clip(container, codec, times, time_base=time_base, rate=rate, options=options)
