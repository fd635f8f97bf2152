"""Encoded picture to RGB, by one stated policy; every way to fail has a code.

Pillow does the decoding. Around it stand the decisions that loaders usually leave to chance:

- the format comes from the bytes (`operators.sniff`), and Pillow may open that format only;
- EXIF (or XMP) orientation is applied, so width and height are those on display;
- alpha is composited on a fixed colour: `convert("RGB")` alone would show what the author hid;
- 16-bit grey is scaled to 8 bits (`convert` clips it); palettes and CMYK are converted, profiles ignored;
- of animations, and of files that hold several pictures, the first is taken;
- truncated files are refused, never filled with grey; pictures over the limits are refused undecoded;
- a PNG may carry texts and profiles of 64 MiB in all; Pillow's own limit of 1 MiB each costs sound pictures.

`read_image_facts` parses headers only, but for PNG: its orientation may stand behind the pixels, so Pillow
decodes those that have none before them. Other damage inside the compressed stream shows in `decode_image`
alone (`operators.image_damage`), and some (flipped bits in a JPEG scan) no decoder can see.
"""

import io
import struct
import warnings
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, NamedTuple, cast

import numpy as np
from PIL import Image, ImageFile, ImageOps, PngImagePlugin

from operators.image_damage import find_damaged_chunk, is_jpeg_short
from operators.sniff import HEAD_BYTES, JPEG, PNG, TIFF, WEBP, MediumFormat, sniff_format
from schemas.errors import ConfigError, RejectCode, SampleError
from schemas.record import MediumKind

_ORIENTATION_TAG = 0x0112
_PNG_END = b"IEND\xaeB`\x82"
_TRANSPOSED = frozenset({5, 6, 7, 8})
_SIXTEEN_BIT_MODES = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})
_PLAIN_MODES = frozenset({"1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr"})
_ALPHA_MODES = frozenset({"RGBA", "LA", "PA", "RGBa", "La"})

# What Pillow's parsers raise on damaged files, bombs included; found by flipping bytes of valid ones.
_PILLOW_ERRORS: Final = (
    OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError,
    RuntimeError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePolicy:
    """What decides the pixels of a decoded picture; part of the feature spec."""

    version: str = "image/1"
    """Names the rules of this module that have no field: orientation, cut files, depth, colour, frame."""
    max_pixels: int = 64_000_000
    min_side_px: int = 2
    """Less than two pixels cannot be cut into 2 x 2 crops."""
    max_aspect: int = 200
    """Long side over short side; scaled up to 336, a longer ribbon would make billions of pixels."""
    alpha_background: tuple[int, int, int] = (255, 255, 255)


DEFAULT_IMAGE_POLICY: Final = ImagePolicy()


class ImageFacts(NamedTuple):
    """What the header tells; the size is the one on display. A named tuple: one is made for every file."""

    format: MediumFormat
    width_px: int
    height_px: int


def read_image_facts(data: bytes, policy: ImagePolicy = DEFAULT_IMAGE_POLICY) -> ImageFacts:
    """Format and size of a picture, from its header.

    Raises:
        SampleError: empty, unknown format, no picture, truncated, over the limits, or an unreadable header.
    """
    with _open_picture(data, policy) as (image, medium_format):
        width_px, height_px = image.size
        # Pillow reports the size of a TIFF with the orientation applied already.
        if medium_format != TIFF and image.getexif().get(_ORIENTATION_TAG) in _TRANSPOSED:
            width_px, height_px = height_px, width_px
        return ImageFacts(medium_format, width_px, height_px)


def decode_image(data: bytes, policy: ImagePolicy = DEFAULT_IMAGE_POLICY) -> Image.Image:
    """The picture as RGB, 8 bits a channel, upright.

    A Pillow image and not an array, because what follows is cutting and resizing, and Pillow's resize is the
    reference for it.

    Raises:
        SampleError: as `read_image_facts`, and for damage that only decoding shows.
    """
    with _open_picture(data, policy) as (image, medium_format):
        image.load()
        _check_undamaged(data, medium_format, image)
        ImageOps.exif_transpose(image, in_place=True)
        return _convert_to_rgb(image, policy)


@contextmanager
def _open_picture(data: bytes, policy: ImagePolicy) -> Generator[tuple[Image.Image, MediumFormat]]:
    """Opens the header, checks the limits; what Pillow raises, here and in the block, becomes a reject."""
    medium_format = _check_format(data)
    _check_complete(data, medium_format)
    try:
        with _long_texts(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=_pillow_formats(medium_format)) as image:
                _check_size(image.size, policy)
                yield image, medium_format
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise SampleError(RejectCode.IMAGE_TOO_LARGE, f"{medium_format.extension}: {error}") from error
    except _PILLOW_ERRORS as error:
        message = f"{medium_format.extension} of {len(data)} bytes does not decode: {error}"
        raise SampleError(RejectCode.DAMAGED_IMAGE, message) from error


@contextmanager
def _long_texts() -> Generator[None]:
    """Lets one text of a PNG take what all of its texts may."""
    before = PngImagePlugin.MAX_TEXT_CHUNK
    PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY
    try:
        yield
    finally:
        PngImagePlugin.MAX_TEXT_CHUNK = before


def _check_format(data: bytes) -> MediumFormat:
    if not data:
        raise SampleError(RejectCode.EMPTY_FILE, "the file has no bytes")
    medium_format = sniff_format(data[:HEAD_BYTES])
    if medium_format is None:
        message = f"no known picture format starts with {data[:8]!r}"
        raise SampleError(RejectCode.UNKNOWN_FORMAT, message)
    if medium_format.kind is not MediumKind.IMAGE:
        message = f"a picture is wanted, the bytes are a clip ({medium_format.extension})"
        raise SampleError(RejectCode.WRONG_KIND, message)
    return medium_format


def _check_complete(data: bytes, medium_format: MediumFormat) -> None:
    """Refuses files that end before their format says they may, without decoding them."""
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise ConfigError("PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set: cut pictures pass as grey; unset it")
    if medium_format == JPEG:
        complete = data.rfind(b"\xff\xd9") > _find_jpeg_scan(data)
    elif medium_format == PNG:
        complete = data.rfind(_PNG_END) > 0
    elif medium_format == WEBP:
        complete = len(data) >= 8 + int.from_bytes(data[4:8], "little")
    else:
        complete = True
    if not complete:
        message = f"{medium_format.extension} of {len(data)} bytes lacks its end"
        raise SampleError(RejectCode.TRUNCATED_IMAGE, message)


def _check_undamaged(data: bytes, medium_format: MediumFormat, decoded: Image.Image) -> None:
    """Refuses what Pillow decodes all the same: missing parts as grey, or against a checksum."""
    if medium_format == JPEG and is_jpeg_short(data, _find_jpeg_scan(data), decoded):
        message = f"jpg of {len(data)} bytes holds a part of its picture; the rest would be grey"
        raise SampleError(RejectCode.TRUNCATED_IMAGE, message)
    if medium_format == PNG and (name := find_damaged_chunk(data)):
        message = f"png of {len(data)} bytes: the checksum of a chunk {name} is wrong"
        raise SampleError(RejectCode.DAMAGED_IMAGE, message)


def _find_jpeg_scan(data: bytes) -> int:
    """Offset of the first scan, or 0 where the segments do not lead there; thumbnails stand before it."""
    offset = 2
    while offset + 4 <= len(data) and data[offset] == 0xFF:
        marker = data[offset + 1]
        if marker == 0xDA:
            return offset
        if marker == 0xFF:
            offset += 1
        else:
            offset += 2 + int.from_bytes(data[offset + 2 : offset + 4], "big")
    return 0


def _check_size(size: tuple[int, int], policy: ImagePolicy) -> None:
    width_px, height_px = size
    short_px, long_px = min(size), max(size)
    if width_px * height_px > policy.max_pixels:
        message = f"{width_px} x {height_px} pixels; the limit is {policy.max_pixels}"
        raise SampleError(RejectCode.IMAGE_TOO_LARGE, message)
    if short_px < policy.min_side_px:
        message = f"{width_px} x {height_px} pixels; each side needs {policy.min_side_px}"
        raise SampleError(RejectCode.IMAGE_TOO_SMALL, message)
    if long_px > policy.max_aspect * short_px:
        message = f"{width_px} x {height_px} pixels is longer than {policy.max_aspect}:1"
        raise SampleError(RejectCode.EXTREME_ASPECT, message)


def _pillow_formats(medium_format: MediumFormat) -> tuple[str, ...]:
    return ("JPEG", "MPO") if medium_format == JPEG else (medium_format.decoder,)


def _convert_to_rgb(image: Image.Image, policy: ImagePolicy) -> Image.Image:
    if image.mode in _SIXTEEN_BIT_MODES:
        # Assigned through numpy: Pillow's own conversion from these modes clips at 255.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in _ALPHA_MODES or "transparency" in cast("dict[str, object]", image.info):
        picture = image.convert("RGBA")
        background = Image.new("RGBA", picture.size, (*policy.alpha_background, 255))
        return Image.alpha_composite(background, picture).convert("RGB")
    if image.mode in _PLAIN_MODES:
        return image if image.mode == "RGB" else image.convert("RGB")
    message = f"pixels of mode {image.mode} have no agreed conversion to 8-bit RGB"
    raise SampleError(RejectCode.UNSUPPORTED_PIXELS, message)
