"""Many small pictures on disk, of the sizes that probing is slowest at.

JPEG and PNG files of 5 to 40 KB, in folders of a thousand. A few dozen pictures are drawn and each is written
under many names: who looks at files one by one cannot tell.
"""

from io import BytesIO
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

NUM_PICTURES: Final = 40
PNG_EVERY: Final = 5
FILES_PER_FOLDER: Final = 1000
MIN_BYTES: Final = 5_000
MAX_BYTES: Final = 40_000


def write_small_files(folder: Path, num_files: int) -> list[str]:
    """Write so many pictures; their paths below the folder."""
    pictures = [_draw(index) for index in range(NUM_PICTURES)]
    paths: list[str] = []
    for index in range(num_files):
        extension, data = pictures[index % NUM_PICTURES]
        path = f"{index // FILES_PER_FOLDER:03d}/{index:06d}.{extension}"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
        paths.append(path)
    return paths


def _draw(index: int) -> tuple[str, bytes]:
    """A picture whose file is the larger, the greater its number is: extension and bytes."""
    random = np.random.default_rng(index)
    share = index / (NUM_PICTURES - 1)
    buffer = BytesIO()
    if index % PNG_EVERY == PNG_EVERY - 1:
        side_px = 45 + int(65 * share)
        noise = random.integers(0, 256, (side_px, side_px, 3), dtype=np.uint8)
        Image.fromarray(noise).save(buffer, "PNG")
        return "png", buffer.getvalue()
    height_px = 90 + int(330 * share)
    rough = random.integers(0, 256, (30, 40, 3), dtype=np.uint8)
    size_px = (height_px * 4 // 3, height_px)
    Image.fromarray(rough).resize(size_px, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=80)
    return "jpg", buffer.getvalue()
