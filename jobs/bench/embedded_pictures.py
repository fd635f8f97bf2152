"""Pictures to stand in rows: tiny, sound, and each number's another one.

OneVision's rows hold what its authors encoded anew, JPEG for the most part and some TIFF, under no name.
So do these: grey pictures of 16 by 12 pixels, in some 330 bytes. A JPEG is told from its like by a comment,
a TIFF by its pixels, for drawing every one would take longer than all the rest.
"""

from functools import cache
from io import BytesIO
from typing import Final

from PIL import Image

from jobs.bench.sample_media import add_comment
from jobs.bench.text_pool import mix

TIFF_EVERY: Final = 8
_SIZE_PX: Final = (16, 12)
_NUM_PIXELS: Final = _SIZE_PX[0] * _SIZE_PX[1]


def draw_picture(number: int) -> bytes:
    """The picture of a number."""
    mark = mix(number).to_bytes(8)
    if number % TIFF_EVERY:
        return add_comment(_draw("JPEG"), mark.hex().encode())
    return _draw("TIFF")[:-_NUM_PIXELS] + mark * (_NUM_PIXELS // len(mark))


@cache
def _draw(name: str) -> bytes:
    """A black picture; of a TIFF, the pixels are the end."""
    buffer = BytesIO()
    Image.new("L", _SIZE_PX).save(buffer, name)
    return buffer.getvalue()
