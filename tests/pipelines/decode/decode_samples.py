"""What the tests of decoding share: a policy of small views, and pictures."""

import io

import numpy as np
from PIL import Image

from operators.frames import FramePolicy
from operators.image import DEFAULT_IMAGE_POLICY
from operators.preprocess import Processor
from operators.render import RenderPolicy

POLICY = RenderPolicy(
    layout="hd4",
    aspect="pad",
    processor=Processor(size_px=56),
    image=DEFAULT_IMAGE_POLICY,
    frames=FramePolicy(fps=2.0),
    backend="pyav",
)


def make_picture(seed: int = 0, size: tuple[int, int] = (90, 60)) -> bytes:
    """Noise, as PNG."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
