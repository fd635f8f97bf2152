"""Pictures inside of a page decode to what was drawn."""

import base64
import io

import numpy as np
from PIL import Image

from pipelines.report.pictures import draw_heat, draw_photo


def decode(url: str, kind: str):
    head, data = url.split(",")
    assert head == f"data:image/{kind};base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def test_a_photo_has_the_size_that_was_asked_for():
    pixels = np.full((64, 64, 3), (200, 30, 40), dtype=np.uint8)
    found = decode(draw_photo(pixels, 40, 10), "jpeg")
    assert found.shape == (10, 40, 3)
    assert np.abs(found.astype(int) - (200, 30, 40)).max() < 6


def test_heat_grows_brighter_with_the_number_and_marks_what_is_none():
    values = np.array([[0.0, 1.0], [2.0, np.nan]], dtype=np.float32)
    found = decode(draw_heat(values, 0.0, 2.0), "png")
    assert found.shape == (2, 2, 3)
    brightness = found.astype(int).sum(axis=-1)
    assert brightness[0, 0] < brightness[0, 1] < brightness[1, 0]
    assert found[1, 1].tolist() == [0, 90, 255]


def test_a_flat_map_is_drawn():
    assert len(np.unique(decode(draw_heat(np.ones((3, 3), np.float32), 1.0, 1.0), "png"))) <= 3
