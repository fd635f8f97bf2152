"""What a medium says of itself, with the digest of its bytes."""

import io

import pytest
from PIL import Image

from operators.image import read_image_facts
from operators.video import read_video_facts
from pipelines.ingest.media.facts import read_facts
from schemas.digest import sha256_hex
from schemas.errors import RejectCode, SampleError
from schemas.medium import MediumFacts
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
    facts = read_image_facts(data)
    expected = MediumFacts(
        sha256_hex(data), MediumKind.IMAGE, facts.format.extension, len(data), facts.width_px, facts.height_px
    )
    assert read_facts(data, MediumKind.IMAGE) == expected
    assert (expected.width_px, expected.height_px) == (11, 8)


def test_a_clip_is_described(clip):
    facts = read_video_facts(clip)
    expected = MediumFacts(sha256_hex(clip), MediumKind.VIDEO, "mp4", len(clip), 32, 32, facts.duration_s)
    assert read_facts(clip, MediumKind.VIDEO) == expected
    assert facts.duration_s > 1


@pytest.mark.parametrize("kind", MediumKind)
@pytest.mark.parametrize(
    ("data", "code"), [(b"", RejectCode.EMPTY_FILE), (b"<html></html>", RejectCode.UNKNOWN_FORMAT)]
)
def test_what_is_no_medium_has_a_code(kind, data, code):
    with pytest.raises(SampleError) as caught:
        read_facts(data, kind)
    assert caught.value.code is code


def test_a_medium_of_the_other_kind_has_a_code(clip):
    for data, kind in ((clip, MediumKind.IMAGE), (encode_picture("PNG"), MediumKind.VIDEO)):
        with pytest.raises(SampleError) as caught:
            read_facts(data, kind)
        assert caught.value.code is RejectCode.WRONG_KIND
