"""What a medium says of itself, with the digest of its bytes."""

import io

import pytest
from PIL import Image

from operators.image import read_image_facts
from operators.video import read_video_facts
from pipelines.ingest.findings import FoundMedium, RejectedMedium
from pipelines.ingest.media.facts import describe_bytes
from schemas.digest import sha256_hex
from schemas.errors import RejectCode
from schemas.record import MediumKind


def encode_picture(form):
    file = io.BytesIO()
    Image.new("RGB", (11, 8), (40, 80, 9)).save(file, form)
    return file.getvalue()


@pytest.fixture
def clip(tiny_folder):
    return (tiny_folder / "media/clips/v_0.mp4").read_bytes()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"])
def test_a_picture_is_described(form):
    data = encode_picture(form)
    extension = read_image_facts(data).format.extension
    expected = FoundMedium(sha256_hex(data), "image", extension, len(data), 11, 8, 0.0, "a/b.jpg")
    assert describe_bytes(data, sha256_hex(data), MediumKind.IMAGE, "a/b.jpg") == expected


def test_a_clip_is_described(clip):
    duration_s = read_video_facts(clip).duration_s
    expected = FoundMedium(sha256_hex(clip), "video", "mp4", len(clip), 32, 32, duration_s, "v")
    assert describe_bytes(clip, sha256_hex(clip), MediumKind.VIDEO, "v") == expected
    assert duration_s > 1


@pytest.mark.parametrize("kind", MediumKind)
@pytest.mark.parametrize(
    ("data", "code"), [(b"", RejectCode.EMPTY_FILE), (b"<html></html>", RejectCode.UNKNOWN_FORMAT)]
)
def test_what_is_no_medium_has_a_code(kind, data, code):
    found = describe_bytes(data, sha256_hex(data), kind, "sub/a.jpg")
    assert isinstance(found, RejectedMedium)
    assert found.code is code
    assert found.message.startswith("'sub/a.jpg': ")


def test_a_medium_of_the_other_kind_has_a_code(clip):
    for data, kind in ((clip, MediumKind.IMAGE), (encode_picture("PNG"), MediumKind.VIDEO)):
        found = describe_bytes(data, sha256_hex(data), kind, "a")
        assert isinstance(found, RejectedMedium)
        assert found.code is RejectCode.WRONG_KIND
