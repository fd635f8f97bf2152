"""The image policy, each rule against a picture whose pixels are known."""

import contextlib
import io
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, PngImagePlugin
from real_outcomes import BLACK, PICTURES

from operators.image import ImagePolicy, decode_image, read_image_facts
from schemas.errors import ConfigError, RejectCode, SampleError


def encode(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def smooth_picture(width, height):
    rows, columns = np.mgrid[0:height, 0:width]
    red = columns * 255 // max(width - 1, 1)
    green = rows * 255 // max(height - 1, 1)
    return Image.fromarray(np.stack([red, green, (red + green) // 2], axis=-1).astype(np.uint8))


def reject_code(call, data, *arguments):
    with pytest.raises(SampleError) as caught:
        call(data, *arguments)
    return caught.value.code


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_is_applied_to_pixels_and_to_facts(kind, orientation):
    upright = np.asarray(smooth_picture(24, 16))
    stored = {  # what a camera writes so that applying the tag gives `upright`
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    data = encode(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, **options)

    facts = read_image_facts(data)
    pixels = np.asarray(decode_image(data)).astype(int)

    assert (facts.width_px, facts.height_px) == (24, 16)
    assert pixels.shape == (16, 24, 3)
    assert np.abs(pixels - upright).max() <= (4 if kind == "JPEG" else 0)


def test_hidden_pixels_do_not_show_through_alpha():
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[..., 0] = 255
    pixels[:2, :, 3] = 255
    decoded = np.asarray(decode_image(encode(Image.fromarray(pixels))))
    assert (decoded[:2] == (255, 0, 0)).all()
    assert (decoded[2:] == (255, 255, 255)).all()
    black = ImagePolicy(alpha_background=(0, 0, 0))
    assert (np.asarray(decode_image(encode(Image.fromarray(pixels)), black))[2:] == 0).all()


def test_a_transparent_palette_entry_is_background():
    image = Image.new("P", (4, 4), 1)
    image.putpalette([9, 9, 9, 0, 200, 0])
    image.putpixel((0, 0), 0)
    decoded = np.asarray(decode_image(encode(image, transparency=0)))
    assert tuple(decoded[0, 0]) == (255, 255, 255)
    assert tuple(decoded[1, 1]) == (0, 200, 0)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(kind):
    levels = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    decoded = np.asarray(decode_image(encode(Image.fromarray(levels), kind)))
    np.testing.assert_array_equal(decoded, np.repeat((levels // 256)[..., None], 3, axis=-1))


def test_big_endian_sixteen_bits_are_scaled():
    data = encode(Image.frombytes("I;16B", (2, 2), struct.pack(">4H", 0, 256, 32768, 65535)), "TIFF")
    assert np.asarray(decode_image(data))[..., 0].tolist() == [[0, 1], [128, 255]]


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "LA"])
def test_every_mode_becomes_rgb(mode):
    picture = smooth_picture(16, 16)
    kind = "JPEG" if mode == "CMYK" else "PNG"
    decoded = decode_image(encode(picture.convert(mode), kind))
    assert (decoded.mode, decoded.size) == ("RGB", (16, 16))
    expected = picture.convert(mode).convert("RGB")
    difference = np.abs(np.asarray(decoded).astype(int) - np.asarray(expected).astype(int))
    assert difference.mean() < (12 if mode == "CMYK" else 1)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_without_a_white_point_are_rejected(mode):
    data = encode(Image.new(mode, (4, 4)), "TIFF")
    assert reject_code(decode_image, data) is RejectCode.UNSUPPORTED_PIXELS


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_is_taken(kind):
    frames = [Image.new("RGB", (8, 8), color) for color in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert (np.asarray(decode_image(data)) == (255, 0, 0)).all()


@pytest.mark.parametrize("call", [read_image_facts, decode_image])
def test_what_is_no_picture_is_rejected_by_name(call):
    assert reject_code(call, b"") is RejectCode.EMPTY_FILE
    assert reject_code(call, b"<html></html>") is RejectCode.UNKNOWN_FORMAT
    assert reject_code(call, b"%!PS-Adobe-3.0 EPSF-3.0\n") is RejectCode.UNKNOWN_FORMAT
    assert reject_code(call, b"\x00\x00\x00\x20ftypisom" + bytes(64)) is RejectCode.WRONG_KIND
    assert reject_code(call, b"\x89PNG\r\n\x1a\n" + bytes(9) + b"IEND\xaeB`\x82") is RejectCode.DAMAGED_IMAGE


@pytest.mark.parametrize("call", [read_image_facts, decode_image])
@pytest.mark.parametrize(
    ("size", "code"),
    [
        ((8001, 8000), RejectCode.IMAGE_TOO_LARGE),
        ((14000, 13000), RejectCode.IMAGE_TOO_LARGE),
        ((1, 8), RejectCode.IMAGE_TOO_SMALL),
        ((402, 2), RejectCode.EXTREME_ASPECT),
    ],
)
def test_limits_hold_before_decoding(call, size, code):
    data = encode(Image.new("1", size))
    assert reject_code(call, data) is code


@pytest.mark.parametrize("call", [read_image_facts, decode_image])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.999])
def test_cut_files_are_rejected_from_the_header_on(call, kind, share):
    data = encode(smooth_picture(300, 200), kind)
    assert reject_code(call, data[: int(share * len(data))]) is RejectCode.TRUNCATED_IMAGE


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_picture():
    thumbnail = encode(smooth_picture(16, 16), "JPEG")
    data = encode(smooth_picture(300, 200), "JPEG", exif=b"Exif\x00\x00" + thumbnail)
    assert reject_code(read_image_facts, data[: len(data) * 3 // 4]) is RejectCode.TRUNCATED_IMAGE


def test_trailing_bytes_do_no_harm():
    picture = smooth_picture(64, 48)
    for kind in ("JPEG", "PNG", "WEBP"):
        data = encode(picture, kind)
        assert decode_image(data + bytes(4096)).tobytes() == decode_image(data).tobytes()


def test_lenient_loading_is_refused(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(ConfigError, match="LOAD_TRUNCATED_IMAGES"):
        decode_image(encode(smooth_picture(8, 8)))


VALID = [encode(smooth_picture(40, 30), kind) for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")]


@settings(max_examples=300, deadline=None)
@given(
    data=st.sampled_from(VALID),
    flips=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=8),
    cut=st.one_of(st.none(), st.integers(0, 10_000)),
)
def test_damage_gives_a_picture_or_a_typed_reject(data, flips, cut):
    damaged = bytearray(data)
    for position, value in flips:
        damaged[position % len(damaged)] = value
    damaged = bytes(damaged[: cut % len(damaged)] if cut is not None else damaged)
    for call in (read_image_facts, decode_image):
        with contextlib.suppress(SampleError):
            call(damaged)


JPEG_FORMS = [{}, {"restart_marker_rows": 1}, {"restart_marker_blocks": 3}, {"progressive": True}]


def colorful_picture(width=203, height=117):
    """Bright, with noise, nowhere grey."""
    noise = np.random.default_rng(0).integers(0, 40, (height, width, 3))
    return Image.fromarray((np.asarray(smooth_picture(width, height)) // 2 + 100 - noise).astype(np.uint8))


@pytest.mark.parametrize("options", JPEG_FORMS[:3], ids=str)
@pytest.mark.parametrize("lost", [0.05, 0.3, 0.9])
def test_a_jpeg_that_lost_its_middle_is_not_filled_with_grey(options, lost):
    """The end marker is there, so that nothing tells but the grey."""
    data = encode(colorful_picture(), "JPEG", **options)
    scan = data.index(b"\xff\xda") + 14
    num_lost = int(lost * (len(data) - scan))
    damaged = data[: len(data) - 2 - num_lost] + data[-2:]
    decode_image(data)
    read_image_facts(damaged)
    assert reject_code(decode_image, damaged) is RejectCode.TRUNCATED_IMAGE


@pytest.mark.parametrize("options", [*JPEG_FORMS, {"progressive": True, "restart_marker_rows": 1}], ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_pictures_may_be_grey(mode, options):
    level = (128,) * len(mode.replace("RGB", "xxx").replace("CMYK", "xxxx"))
    picture = Image.new(mode, (203, 117), level)
    assert decode_image(encode(picture, "JPEG", **options)).size == (203, 117)
    picture.paste(tuple(value // 2 for value in level), (0, 0, 90, 60))
    assert decode_image(encode(picture, "JPEG", **options)).size == (203, 117)


def test_a_png_whose_pixels_fail_their_checksum_is_rejected():
    """Zeros decode to black rows, and Pillow does not compare the checksum of pixels."""
    data = encode(colorful_picture(), "PNG")
    middle, end = len(data) * 3 // 4, len(data) - 16
    damaged = data[:middle] + bytes(end - middle) + data[end:]
    assert not np.asarray(Image.open(io.BytesIO(damaged)))[-8:].any()
    decode_image(data)
    with pytest.raises(SampleError, match="checksum of a chunk IDAT") as caught:
        decode_image(damaged)
    assert caught.value.code is RejectCode.DAMAGED_IMAGE


@pytest.mark.real
def test_every_real_picture_decodes_or_is_rejected_for_the_right_reason(media_folder):
    rejected = {}
    paths = [path for path in sorted((media_folder / "images").rglob("*")) if path.is_file()]
    for path in paths:
        data = path.read_bytes()
        try:
            image = decode_image(data)
        except SampleError as reject:
            rejected[path.name] = reject.code
            continue
        facts = read_image_facts(data)
        assert image.size == (facts.width_px, facts.height_px), path.name
        assert image.mode == "RGB"
        if path.name not in BLACK:
            assert image.getextrema() != ((0, 0), (0, 0), (0, 0)), path.name
    assert len(paths) > 80
    expected = {Path(name).name: outcome for name, outcome in PICTURES.items()}
    assert rejected == {name: code for name, code in expected.items() if isinstance(code, RejectCode)}


@pytest.mark.parametrize("name", ["Comment", "icc_profile"])
def test_a_long_text_costs_no_png(name):
    data = encode(smooth_picture(9, 7), **long_text(name, 3 << 20))
    assert read_image_facts(data)[1:] == (9, 7)
    np.testing.assert_array_equal(np.asarray(decode_image(data)), np.asarray(smooth_picture(9, 7)))


def test_texts_without_end_are_refused():
    data = encode(smooth_picture(9, 7), **long_text("Comment", (64 << 20) + 1))
    assert reject_code(decode_image, data) is RejectCode.DAMAGED_IMAGE


def long_text(name, num_bytes):
    """What makes Pillow write a packed text, or a colour profile, of so many bytes."""
    if name == "icc_profile":
        return {name: bytes(num_bytes)}
    texts = PngImagePlugin.PngInfo()
    texts.add_text(name, "x" * num_bytes, zip=True)
    return {"pnginfo": texts}
