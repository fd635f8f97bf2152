"""Headers read the short way say what Pillow says, of sound pictures and of damaged ones."""

import io
import random
import struct
import zlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from operators import image_header, jpeg_header
from operators.exif_header import read_orientation
from operators.image import ImagePolicy, read_image_facts
from operators.image_header import read_image_header
from operators.jpeg_header import read_jpeg_header, walk_segments
from schemas.errors import RejectCode, SampleError


def encode(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(width=48, height=32, mode="RGB"):
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([columns * 5 % 256, rows * 7 % 256, (rows + columns) % 256], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8)).convert(mode)


def exif_of(orientation, **tags):
    exif = Image.Exif()
    exif[0x010F] = "Maker of cameras"
    exif[0x0110] = "M"
    exif[0x011A] = exif[0x011B] = 72.0
    exif[0x0128] = 2
    if orientation is not None:
        exif[0x0112] = orientation
    for tag, value in tags.items():
        exif[int(tag, 16)] = value
    return exif


def outcome(read, data, *policy):
    try:
        facts = read(data, *policy)
    except SampleError as reject:
        return reject.code
    return facts


def is_png_damaged_in_its_pixels(data):
    """Whether the header opens: then only pixels can be what Pillow has stumbled over."""
    return data.startswith(b"\x89PNG") and Image.open(io.BytesIO(data), formats=("PNG",)).size


def check_agreement(data, *policy):
    short, long = outcome(read_image_header, data, *policy), outcome(read_image_facts, data, *policy)
    if short != long:
        width, height = is_png_damaged_in_its_pixels(data)
        assert long is RejectCode.DAMAGED_IMAGE, (short, long)
        assert {short.width_px, short.height_px} == {width, height}
    return short


@pytest.fixture
def asked(monkeypatch):
    """How often Pillow was asked."""
    calls = []
    monkeypatch.setattr(
        image_header,
        "read_image_facts",
        lambda data, policy: calls.append(1) or read_image_facts(data, policy),
    )
    return calls


SOUND = {
    "jpeg": encode(picture(), "JPEG"),
    "jpeg, grey": encode(picture(mode="L"), "JPEG"),
    "jpeg, CMYK": encode(picture(mode="CMYK"), "JPEG"),
    "jpeg, progressive": encode(picture(), "JPEG", progressive=True, quality=95),
    "jpeg, profile and comment": encode(picture(), "JPEG", icc_profile=bytes(70_000), comment=b"made here"),
    "jpeg, exif": encode(picture(), "JPEG", exif=exif_of(6)),
    "jpeg, exif without orientation": encode(picture(), "JPEG", exif=exif_of(None)),
    "jpeg, restarts": encode(picture(), "JPEG", restart_marker_rows=1),
    "jpeg, dpi": encode(picture(), "JPEG", dpi=(300, 300)),
    "jpeg, xmp": encode(picture(), "JPEG", xmp=b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"),
    "png": encode(picture()),
    "png, grey": encode(picture(mode="L")),
    "png, palette": encode(picture(mode="P")),
    "png, bits": encode(picture(mode="1")),
    "png, alpha": encode(picture(mode="RGBA")),
    "png, grey and alpha": encode(picture(mode="LA")),
    "png, 16 bits": encode(Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 999)),
    "png, transparent palette": encode(picture(mode="P"), transparency=bytes([0, 9, 255])),
    "png, transparent colour": encode(picture(), transparency=(1, 2, 3)),
    "png, dpi and profile": encode(picture(), dpi=(72, 72), icc_profile=bytes(3000)),
    "png, exif": encode(picture(), exif=exif_of(8)),
    "gif": encode(picture(mode="P"), "GIF"),
    "gif, grey": encode(picture(mode="L"), "GIF"),
    "gif, transparent": encode(picture(mode="P"), "GIF", transparency=3),
    "gif, animated": encode(
        picture(mode="P"), "GIF", save_all=True, append_images=[picture(mode="L")], loop=0, duration=100
    ),
    "bmp": encode(picture(), "BMP"),
    "bmp, 32 bits": encode(picture(mode="RGBA"), "BMP"),
    "webp": encode(picture(), "WEBP"),
    "webp, lossless": encode(picture(), "WEBP", lossless=True),
}
LEFT_TO_PILLOW = {
    "jpeg, xmp orientation": encode(picture(), "JPEG", xmp=b'<x tiff:Orientation="6"/>'),
    "jpeg, several": encode(picture(), "MPO", save_all=True, append_images=[picture()]),
    "jpeg, odd exif": encode(picture(), "JPEG", exif=b"Exif\0\0" + bytes(30)),
    "jpeg, padded": encode(picture(), "JPEG").replace(b"\xff\xdb", b"\xff\xff\xdb", 1),
    "png, xmp orientation": encode(picture(), pnginfo=PngImagePlugin.PngInfo()),
    "png, compressed text": None,
    "png, animated": encode(picture(), save_all=True, append_images=[picture(mode="L").convert("RGB")]),
    "gif, comment": encode(picture(mode="P"), "GIF", comment=b"made here"),
    "bmp, palette": encode(picture(mode="P"), "BMP"),
    "webp, alpha": encode(Image.merge("RGBA", [*picture().split(), picture(mode="L")]), "WEBP"),
    "webp, exif": encode(picture(), "WEBP", exif=exif_of(6)),
    "webp, animated": encode(
        picture(), "WEBP", save_all=True, append_images=[picture(mode="L").convert("RGB")]
    ),
    "tiff": encode(picture(), "TIFF"),
    "tiff, turned": encode(picture(), "TIFF", exif=exif_of(6)),
}
_TEXT = PngImagePlugin.PngInfo()
_TEXT.add_text("Comment", "long " * 500, zip=True)
LEFT_TO_PILLOW["png, compressed text"] = encode(picture(), pnginfo=_TEXT)
_XMP = PngImagePlugin.PngInfo()
_XMP.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
LEFT_TO_PILLOW["png, xmp orientation"] = encode(picture(), pnginfo=_XMP)


@pytest.mark.parametrize("name", SOUND)
def test_sound_pictures_are_told_without_pillow(name, asked):
    facts = check_agreement(SOUND[name])
    assert {facts.width_px, facts.height_px} in ({48, 32}, {8})
    assert not asked


@pytest.mark.parametrize("name", LEFT_TO_PILLOW)
def test_what_is_unusual_is_left_to_pillow(name, asked):
    facts = check_agreement(LEFT_TO_PILLOW[name])
    assert {facts.width_px, facts.height_px} == {48, 32}
    assert asked


@pytest.mark.parametrize("order", ["II", "MM"])
@pytest.mark.parametrize("orientation", [*range(10), 300])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_is_applied_as_pillow_finds_it(kind, orientation, order):
    exif = exif_of(orientation)
    exif.endian = {"II": "<", "MM": ">"}[order]
    facts = check_agreement(encode(picture(), kind, exif=exif))
    assert (facts.width_px, facts.height_px) == ((32, 48) if orientation in (5, 6, 7, 8) else (48, 32))


def chunk(name, body):
    return struct.pack(">L", len(body)) + name + body + struct.pack(">L", zlib.crc32(name + body))


def tiff_block(*entries):
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)


def entry(tag, kind, count, value):
    return struct.pack("<HHL4s", tag, kind, count, value)


TURNED = entry(0x0112, 3, 1, b"\6\0\0\0")


def test_an_orientation_behind_the_pixels_of_a_png_is_found(asked):
    png = SOUND["png"]
    end = png.rindex(b"\0\0\0\0IEND")
    late = png[:end] + chunk(b"eXIf", tiff_block(TURNED)) + png[end:]
    facts = check_agreement(late)
    assert (facts.width_px, facts.height_px) == (32, 48)
    assert not asked


@pytest.mark.parametrize(
    "block",
    [
        tiff_block(TURNED, TURNED),
        tiff_block(entry(0x0112, 4, 1, b"\6\0\0\0")),
        tiff_block(entry(0x0112, 3, 2, b"\6\0\6\0")),
        tiff_block(entry(0x0112, 3, 0, b"\6\0\0\0")),
        tiff_block(entry(0x0112, 99, 1, b"\6\0\0\0")),
        tiff_block(entry(0x010F, 2, 400, b"\xff\xff\0\0"), TURNED),
        tiff_block(entry(0x011A, 1, 1, b"\1\0\0\0"), entry(0x0128, 3, 1, b"\2\0\0\0")),
        tiff_block(entry(0x9000, 2, 1, b"0\0\0\0"), TURNED),
        tiff_block(TURNED)[:15],
        tiff_block()[:9],
        b"II*\0\xff\0\0\0" + bytes(20),
        b"II+\0" + bytes(20),
        b"",
    ],
)
def test_exif_with_a_slip_is_left_to_pillow(block):
    assert read_orientation(block) is None
    check_agreement(encode(picture(), "JPEG", exif=b"Exif\0\0" + block) if block else SOUND["jpeg"])
    end = SOUND["png"].rindex(b"\0\0\0\0IEND")
    check_agreement(SOUND["png"][:end] + chunk(b"eXIf", block) + SOUND["png"][end:])


def test_exif_without_a_slip_is_read():
    assert read_orientation(tiff_block()) == 1
    assert read_orientation(tiff_block(TURNED)) == 6
    assert read_orientation(tiff_block(entry(0x010F, 2, 5, b"\x08\0\0\0"), TURNED)) == 6


@pytest.mark.parametrize(
    "size",
    [(1, 8), (8, 1), (2, 401), (402, 2), (2, 400), (2, 2), (8001, 8000), (8000, 8000), (13_000, 14_000)],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
def test_limits_are_those_of_pillow_and_the_policy(kind, size):
    # the size is written into the header of a small picture: nothing of it is decoded
    data = bytearray(encode(picture(16, 16), kind))
    width, height = size
    if kind == "JPEG":
        struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, height, width)
    elif kind == "PNG":
        struct.pack_into(">LL", data, 16, width, height)
        struct.pack_into(">L", data, 29, zlib.crc32(data[12:29]))
    elif kind == "GIF":
        struct.pack_into("<HH", data, 6, width, height)
    elif kind == "BMP":
        struct.pack_into("<LL", data, 18, width, height)
    else:
        struct.pack_into("<HH", data, 26, width, height)
    for policy in (ImagePolicy(), ImagePolicy(max_pixels=200_000_000, max_aspect=300, min_side_px=1)):
        check_agreement(bytes(data), policy)


def test_what_is_no_picture_has_the_same_code():
    short = (b"", b"\xff\xd8", b"BM", b"GIF89a", b"RIFF....WEBP", b"\x89PNG\r\n\x1a\n", b"<html>", bytes(99))
    for data in (*short, b"\0\0\0\x20ftypisom" + bytes(64)):
        assert isinstance(check_agreement(data), RejectCode)


EVERYTHING = [*SOUND.values(), *LEFT_TO_PILLOW.values()]
PNG_CHUNKS = [b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"tRNS", b"PLTE", b"tEXt", b"iTXt", b"iCCP", b"eXIf",
              b"acTL", b"IDAT", b"IHDR", b"fcTL", b"zTXt", b"bKGD", b"prVt"]  # fmt: skip
JPEG_MARKERS = [0xC0, 0xC2, 0xC4, 0xDB, 0xDD, 0xE0, 0xE1, 0xE2, 0xE5, 0xED, 0xEE, 0xFE, 0xC3, 0xDC]
JPEG_PREFIXES = [b"", b"JFIF\0", b"Exif\0\0", b"Adobe", b"MPF\0", b"ICC_PROFILE\0", b"Photoshop 3.0\x008BIM",
                 b"Exif\0\0" + tiff_block(TURNED), b"http://ns.adobe.com/xap/1.0/\0"]  # fmt: skip


@settings(max_examples=1500, deadline=None)
@given(
    data=st.sampled_from(EVERYTHING),
    flips=st.lists(st.tuples(st.integers(0, 900) | st.integers(0, 10**6), st.integers(0, 255)), max_size=5),
    cut=st.none() | st.integers(0, 10**6),
    tail=st.binary(max_size=8),
)
def test_damage_has_the_same_outcome(data, flips, cut, tail):
    damaged = bytearray(data)
    for position, value in flips:
        damaged[position % len(damaged)] = value
    check_agreement(bytes(damaged[: cut % len(damaged)] if cut is not None else damaged) + tail)


@settings(max_examples=500, deadline=None)
@given(
    one=st.sampled_from(EVERYTHING),
    two=st.sampled_from(EVERYTHING),
    cuts=st.tuples(*[st.integers(0, 10**6)] * 2),
)
def test_splices_have_the_same_outcome(one, two, cuts):
    check_agreement(one[: cuts[0] % len(one)] + two[cuts[1] % len(two) :])


@settings(max_examples=500, deadline=None)
@given(
    data=st.sampled_from([data for name, data in SOUND.items() if name.startswith("png")]),
    added=st.lists(
        st.tuples(
            st.sampled_from(PNG_CHUNKS),
            st.binary(max_size=40) | st.just(tiff_block(TURNED)) | st.just(b"Comment\0\0text"),
            st.integers(0, 9),
        ),
        min_size=1,
        max_size=4,
    ),
)
def test_chunks_with_right_checksums_have_the_same_outcome(data, added):
    chunks = []
    offset = 8
    while offset < len(data):
        (length,) = struct.unpack_from(">L", data, offset)
        chunks.append(data[offset : offset + 12 + length])
        offset += 12 + length
    for name, body, place in added:
        chunks.insert(1 + place % (len(chunks) - 1), chunk(name, body))
    changed = data[:8] + b"".join(chunks)
    if any(name == b"IDAT" for name, _, _ in added):
        check_agreement(changed)
    else:
        assert outcome(read_image_header, changed) == outcome(read_image_facts, changed)


@settings(max_examples=500, deadline=None)
@given(
    data=st.sampled_from([data for name, data in SOUND.items() if name.startswith("jpeg")]),
    added=st.lists(
        st.tuples(
            st.sampled_from(JPEG_MARKERS),
            st.sampled_from(JPEG_PREFIXES),
            st.binary(max_size=30),
            st.integers(0, 20),
        ),
        min_size=1,
        max_size=3,
    ),
)
def test_segments_of_any_content_have_the_same_outcome(data, added):
    segments = []
    offset = 2
    while data[offset + 1] != 0xDA:
        (length,) = struct.unpack_from(">H", data, offset + 2)
        segments.append(data[offset : offset + 2 + length])
        offset += 2 + length
    for marker, prefix, body, place in added:
        content = prefix + body
        segments.insert(
            place % (len(segments) + 1), struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content
        )
    changed = data[:2] + b"".join(segments) + data[offset:]
    check_agreement(changed)
    assert read_jpeg_header(changed) == walk_segments(changed)


@settings(max_examples=500, deadline=None)
@given(
    data=st.sampled_from([data for name, data in SOUND.items() if name.startswith("jpeg")]),
    flips=st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), max_size=4),
    cut=st.none() | st.integers(0, 700),
)
def test_the_usual_beginning_of_a_jpeg_is_what_its_segments_are(data, flips, cut):
    changed = bytearray(data)
    for place, value in flips:
        changed[place % len(changed)] = value
    damaged = bytes(changed[:cut])
    assert read_jpeg_header(damaged) == walk_segments(damaged)


@pytest.mark.parametrize(("options", "found"), [({}, []), ({"optimize": True}, [(48, 32)])])
def test_a_plain_jpeg_is_walked_through_no_further_than_it_is_unusual(monkeypatch, options, found):
    walked = []
    monkeypatch.setattr(jpeg_header, "walk_segments", lambda data, offset, size: walked.append(size))
    read_jpeg_header(encode(picture(), "JPEG", **options))
    assert walked == found


@pytest.mark.real
def test_real_pictures_and_their_damaged_copies_have_the_same_outcome(media_folder, asked):
    paths = [path for path in sorted((media_folder / "images").rglob("*")) if path.is_file()]
    draw = random.Random(5)
    outcomes = Counter()
    for path in paths:
        data = path.read_bytes()
        outcomes[type(check_agreement(data)).__name__] += 1
        if len(data) > 200_000 or not data:
            continue
        for _ in range(5):
            damaged = bytearray(data)
            for _ in range(draw.randrange(1, 4)):
                damaged[draw.randrange(min(len(damaged), 3000))] = draw.randrange(256)
            check_agreement(bytes(damaged))
    assert outcomes["ImageFacts"] > 60
    assert outcomes["RejectCode"] > 10
    assert len(asked) > 20
