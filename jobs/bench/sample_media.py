"""Pictures and clips to measure with: made, so that anybody has the same; as dear to decode as real ones."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
from jaxtyping import UInt8
from PIL import Image

FPS: Final = 30
_BLOCK_PX: Final = 8
_ENCODER: Final = "libx264"
_JPEG_START: Final = 2
"""Bytes of a JPEG before its first segment."""


def make_jpeg(width_px: int, height_px: int) -> bytes:
    """Smooth noise at quality 90: about 2.5 bits a pixel, as a detailed photograph."""
    noise = np.random.default_rng(0).integers(
        0, 256, (height_px // _BLOCK_PX, width_px // _BLOCK_PX, 3), dtype=np.uint8
    )
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((width_px, height_px), Image.Resampling.BICUBIC).save(
        buffer, "JPEG", quality=90
    )
    return buffer.getvalue()


def add_comment(jpeg: bytes, comment: bytes) -> bytes:
    """The same picture with a segment that nobody decodes: other bytes, other digest."""
    segment = b"\xff\xfe" + (len(comment) + 2).to_bytes(2) + comment
    return jpeg[:_JPEG_START] + segment + jpeg[_JPEG_START:]


def write_clip(path: Path, width_px: int, height_px: int, num_frames: int, bit_rate: int) -> None:
    """H.264 with B-frames and long groups of pictures, a noisy scene that moves."""
    with open_output(path) as container:
        stream = container.add_stream(_ENCODER, rate=FPS)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = (
            width_px,
            height_px,
            "yuv420p",
            bit_rate,
        )
        stream.options = {"preset": "veryfast", "bf": "3", "g": "250"}
        for pixels in _draw_frames(width_px, height_px, num_frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def repeat_clip(source: Path, path: Path, num_times: int) -> None:
    """The same clip many times over in one file, its packets copied."""
    with open_output(path) as output:
        copied: Any = None
        for repeat in range(num_times):
            with av.open(str(source)) as opened:
                container: Any = opened
                own = container.streams.video[0]
                copied = copied or output.add_stream_from_template(own)
                ticks = repeat * round(own.frames / FPS / own.time_base)
                for packet in container.demux(own):
                    if packet.dts is None or packet.pts is None:
                        continue
                    packet.pts, packet.dts, packet.stream = packet.pts + ticks, packet.dts + ticks, copied
                    output.mux(packet)


def open_output(path: Path) -> Any:  # noqa: ANN401 - PyAV types what it writes by the codec's name
    """A container to write to."""
    return av.open(str(path), "w")


def _draw_frames(
    width_px: int, height_px: int, num_frames: int
) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    generator = np.random.default_rng(0)
    scene = generator.integers(40, 216, (height_px // 16 + 8, width_px // 16 + 8, 3), dtype=np.uint8)
    large = np.asarray(
        Image.fromarray(scene).resize((width_px + 128, height_px + 128), Image.Resampling.BICUBIC)
    )
    for index in range(num_frames):
        left, top = index % 128, index // 2 % 128
        yield np.ascontiguousarray(large[top : top + height_px, left : left + width_px])
