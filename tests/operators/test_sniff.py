"""Formats are told from bytes; what points at other files is none."""

import io

import pytest
from PIL import Image

from operators.sniff import BMP, FORMATS, GIF, HEAD_BYTES, JPEG, PNG, TIFF, WEBP, sniff_format
from schemas.record import MediumKind


@pytest.mark.parametrize("medium_format", [JPEG, PNG, GIF, WEBP, BMP, TIFF], ids=lambda f: f.extension)
def test_pictures_are_known_by_their_bytes(medium_format):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (200, 10, 30)).save(buffer, medium_format.decoder)
    assert sniff_format(buffer.getvalue()[:HEAD_BYTES]) == medium_format


@pytest.mark.parametrize(
    ("head", "extension"),
    [
        (b"\x00\x00\x00\x20ftypisom", "mp4"),
        (b"\x00\x00\x00\x14ftypqt  ", "mov"),
        (b"\x00\x00\x00\x08wide\x00\x00\x10\x00mdat", "mov"),
        (b"\x1a\x45\xdf\xa3\x9fB\x86\x81\x01B\xf7\x81\x01B\x82\x84webm", "webm"),
        (b"\x1a\x45\xdf\xa3\x9fB\x86\x81\x01B\xf7\x81\x01B\x82\x88matroska", "mkv"),
        (b"RIFF\x00\x10\x00\x00AVI LIST", "avi"),
        ((b"\x47" + bytes(187)) * 3, "ts"),
        (b"\x00\x00\x01\xba\x44", "mpg"),
        (b"FLV\x01\x05", "flv"),
    ],
)
def test_clips_are_known_by_their_bytes(head, extension):
    medium_format = sniff_format(head)
    assert medium_format is not None
    assert (medium_format.kind, medium_format.extension) == (MediumKind.VIDEO, extension)


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\x00",
        b"<html><body>404</body></html>",
        b"#EXTM3U\n#EXT-X-VERSION:3\nfile:///etc/passwd",
        b"ffconcat version 1.0\nfile /etc/passwd",
        b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%!PS-Adobe-3.0 EPSF-3.0",
        b"%PDF-1.7",
        b"\x00\x00\x00\x20ftypavif",
        b"\x00\x00\x00\x18ftypheic",
        b"\x00\x00\x01\x00\x01\x00\x10\x10",
        b"RIFF\x00\x10\x00\x00WAVEfmt ",
        b"BM is not a bitmap",
        bytes(1024),
        b"\x47" * 100,
    ],
)
def test_everything_else_is_no_medium(head):
    assert sniff_format(head) is None


def test_extensions_name_formats_one_to_one():
    assert len({medium_format.extension for medium_format in FORMATS}) == len(FORMATS)
