"""Scenes as files: JPEG, PNG and GIF bytes, and clips in three containers.

One encoder thread and bit-exact containers, so that a seed gives the same bytes on every run with the same
libraries. A clip of five seconds takes about 0.1 s, most of it drawing.
"""

from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Final, Literal

import av
import numpy as np
from PIL import Image

from jobs.demo.scenes import Clip, Picture, draw_frames, draw_picture

ImageFormat = Literal["JPEG", "PNG", "GIF"]

_CONTAINERS: Final = {".mp4": "mp4", ".mkv": "matroska", ".webm": "webm"}
VIDEO_SUFFIXES: Final = tuple(_CONTAINERS)


def encode_picture(picture: Picture, image_format: ImageFormat = "JPEG") -> bytes:
    """The picture's file."""
    return encode_image(draw_picture(picture), image_format)


def encode_image(image: Image.Image, image_format: ImageFormat) -> bytes:
    """An image's file."""
    buffer = BytesIO()
    if image_format == "JPEG":
        image.save(buffer, image_format, quality=90)
    else:
        image.save(buffer, image_format)
    return buffer.getvalue()


def encode_clip(clip: Clip, suffix: str) -> bytes:
    """The clip's file: H.264 in .mp4 and .mkv, VP8 in .webm."""
    buffer = BytesIO()
    with av.open(buffer, "w", format=_CONTAINERS[suffix], options={"fflags": "+bitexact"}) as container:
        if suffix == ".webm":
            stream = container.add_stream("libvpx", rate=clip.frames_per_s)  # pyright: ignore[reportUnknownMemberType]
            # Below zero: from zero on VP8 chooses its speed by the clock.
            stream.options = {"deadline": "realtime", "cpu-used": "-8"}
        else:
            stream = container.add_stream("libx264", rate=clip.frames_per_s)  # pyright: ignore[reportUnknownMemberType]
            stream.options = {"preset": "ultrafast", "crf": "23"}
        stream.width, stream.height, stream.pix_fmt = clip.width_px, clip.height_px, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = Fraction(1, clip.frames_per_s)
        for image in draw_frames(clip):
            frame = av.VideoFrame.from_ndarray(np.asarray(image), format="rgb24")
            container.mux(stream.encode(frame))  # pyright: ignore[reportUnknownMemberType]
        container.mux(stream.encode(None))  # pyright: ignore[reportUnknownMemberType]
    return buffer.getvalue()


def write_file(path: Path, data: bytes) -> None:
    """Write one file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
