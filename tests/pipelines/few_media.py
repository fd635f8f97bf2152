"""A handful of media, good and bad, in memory and on disk."""

import io
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image


def make_picture(shade: int, form: str = "JPEG", width_px: int = 8) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width_px, 8), (shade, 255 - shade, 9)).save(file, form)
    return file.getvalue()


def make_clip(shade: int, num_frames: int = 5) -> bytes:
    """Half a second for each frame."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream("mpeg4", rate=2)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for index in range(num_frames):
            pixels = np.full((32, 32, 3), (shade + 40 * index) % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def make_media() -> dict[str, bytes]:
    """By path: two names of one picture, a cut one, an empty one, one called otherwise, two of one stem."""
    a, b, c = make_picture(1), make_picture(2, "PNG", 9), make_picture(3, "GIF")
    return {
        "a.jpg": a,
        "b.png": b,
        "c.gif": c,
        "d.jpg": make_picture(4, "PNG"),
        "same.jpg": a,
        "sub/a.jpg": make_picture(5, width_px=20),
        "two.jpg": b,
        "two.gif": c,
        "cut.jpg": a[:-9],
        "empty.jpg": b"",
        "v_0.mp4": make_clip(1),
        "v_1.mp4": make_clip(2, 3),
    }


def write_media(folder: Path) -> Path:
    for name, data in make_media().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def talk(*texts: str, names: tuple[str, str] = ("human", "gpt"), fields: tuple[str, str] = ("from", "value")):
    """Turns in alternation."""
    return [{fields[0]: names[place % 2], fields[1]: text} for place, text in enumerate(texts)]
