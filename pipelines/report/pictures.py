"""Pixels and numbers as pictures inside of a page: small files in base64, no request to anybody."""

import base64
import io
from typing import Final

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

_QUALITY: Final = 72
_DARK: Final = np.array((13, 8, 52), dtype=np.float64)
_MIDDLE: Final = np.array((187, 55, 84), dtype=np.float64)
_LIGHT: Final = np.array((252, 250, 165), dtype=np.float64)


def draw_photo(pixels: UInt8[np.ndarray, "height width 3"], width_px: int, height_px: int) -> str:
    """A picture of this size, as JPEG in a data URL."""
    small = Image.fromarray(pixels).resize((max(1, width_px), max(1, height_px)), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=_QUALITY, optimize=True)
    return _to_url("jpeg", file.getvalue())


def draw_heat(values: Float[np.ndarray, "rows columns"], low: float, high: float) -> str:
    """A grid of numbers as colours from dark (`low`) over red to light (`high`), a pixel a number, as PNG.

    What is not finite is blue, a colour that no number has.
    """
    span = max(high - low, 1e-12)
    share = np.clip((np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0) - low) / span, 0, 1)[..., None]
    lower, upper = np.minimum(2 * share, 1), np.maximum(2 * share - 1, 0)
    colors = _DARK + lower * (_MIDDLE - _DARK) + upper * (_LIGHT - _MIDDLE)
    colors[~np.isfinite(values)] = (0, 90, 255)
    file = io.BytesIO()
    Image.fromarray(colors.round().astype(np.uint8)).save(file, "PNG", optimize=True)
    return _to_url("png", file.getvalue())


def _to_url(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
