"""Files that are damaged, hostile or odd, through the decoding process: views or a typed reject, in time."""

import io
import random
import time
from collections import Counter

import numpy as np
import pytest
from indexed_clips import make_clip
from PIL import Image
from real_outcomes import BLACK, CLIPS, PICTURES

from operators.frames import FramePolicy, count_frames
from operators.image import DEFAULT_IMAGE_POLICY, read_image_facts
from operators.preprocess import Processor
from operators.render import RenderPolicy
from pipelines.decode.child import allow_time
from pipelines.decode.isolated import IsolatedDecoder
from pipelines.decode.wire import DecodeLimits
from schemas.errors import RejectCode, SampleError
from schemas.record import MediumKind

POLICY = RenderPolicy(
    layout="hd4",
    aspect="pad",
    processor=Processor(size_px=56),
    image=DEFAULT_IMAGE_POLICY,
    frames=FramePolicy(fps=2.0, max_frames=32),
    backend="pyav",
)
CLIP_NAMES = ("mp4", "mp4-variable", "mkv-hevc", "webm", "mkv-av1", "ts-late-start", "avi", "mpg", "flv")


@pytest.fixture(scope="module")
def decoder():
    with IsolatedDecoder(POLICY) as decoder:
        yield decoder


def make_pictures():
    """Bright everywhere, so that what is black or of one colour was made up."""
    rows, columns = np.mgrid[0:96, 0:128]
    noise = np.random.default_rng(0).integers(0, 40, (96, 128, 3))
    levels = 60 + np.stack([columns, rows, (rows + columns) // 2], axis=-1) + noise
    image = Image.fromarray(levels.astype(np.uint8))
    forms = {
        "jpg": ("JPEG", {}),
        "progressive": ("JPEG", {"progressive": True}),
        "restarts": ("JPEG", {"restart_marker_rows": 2}),
        "png": ("PNG", {}),
        "gif": ("GIF", {}),
        "webp": ("WEBP", {}),
        "lossless": ("WEBP", {"lossless": True}),
        "tif": ("TIFF", {"compression": "tiff_lzw"}),
    }
    pictures = {}
    for name, (form, options) in forms.items():
        buffer = io.BytesIO()
        image.save(buffer, form, **options)
        pictures[name] = buffer.getvalue()
    return pictures


@pytest.fixture(scope="module")
def valid():
    """(kind, bytes) by name."""
    media = {name: (MediumKind.IMAGE, data) for name, data in make_pictures().items()}
    return media | {name: (MediumKind.VIDEO, make_clip(name)) for name in CLIP_NAMES}


def damage(data, others, generator):
    """Flipped bits, zeroed bytes, a cut, a piece left out, or a piece of another file put in."""
    damaged = bytearray(data)
    start = generator.randrange(len(damaged))
    end = min(len(damaged), start + 1 + generator.randrange(max(1, len(damaged) // 3)))
    way = generator.choice(["flip", "zero", "cut", "leave out", "splice"])
    if way == "flip":
        for _ in range(generator.randint(1, 30)):
            damaged[generator.randrange(len(damaged))] ^= 1 << generator.randrange(8)
    elif way == "zero":
        damaged[start:end] = bytes(end - start)
    elif way == "cut":
        del damaged[start:]
    elif way == "leave out":
        del damaged[start:end]
    else:
        other = generator.choice(others)
        offset = generator.randrange(len(other))
        damaged[start:end] = other[offset : offset + end - start]
    return way, bytes(damaged)


def is_made_up(rendered, kind):
    """A whole picture without any structure; crops of a damaged one may be poor."""
    whole = rendered.views[-1:] if kind is MediumKind.IMAGE else rendered.views
    flat = whole.reshape(len(whole), -1, 3)
    return bool((flat.max(axis=1) == flat.min(axis=1)).all(axis=-1).any())


def decode_damaged(decoder, valid, num_files, seed):
    """What became of each: the code of its reject, or the name of the way that it survived."""
    generator = random.Random(seed)
    names = sorted(valid)
    fates = Counter()
    longest_s = 0.0
    for number in range(num_files):
        kind, data = valid[names[number % len(names)]]
        way, damaged = damage(data, [other for _, other in valid.values()], generator)
        started_s = time.monotonic()
        try:
            rendered = decoder.render(damaged, kind)
        except SampleError as reject:
            fates[reject.code] += 1
        else:
            assert rendered.views.shape[1:] == (56, 56, 3)
            assert 1 <= len(rendered.views) <= 32
            is_flagged = rendered.report is not None and (
                rendered.report.num_concealed or rendered.report.num_damaged
            )
            assert not is_made_up(rendered, kind) or is_flagged, (names[number % len(names)], way, number)
            fates[way] += 1
        longest_s = max(longest_s, time.monotonic() - started_s)
    assert longest_s < allow_time(DecodeLimits(), 30.0, 1000)
    return fates


def check_fates(fates, num_files):
    """Neither did everything pass nor was everything refused, and nothing was lost."""
    rejected = sum(count for fate, count in fates.items() if isinstance(fate, RejectCode))
    assert sum(fates.values()) == num_files
    assert 0.2 * num_files < rejected < 0.9 * num_files
    assert {RejectCode.TRUNCATED_IMAGE, RejectCode.DAMAGED_IMAGE, RejectCode.DAMAGED_VIDEO} <= set(fates)


def test_two_thousand_damages_give_views_or_typed_rejects(decoder, valid):
    check_fates(decode_damaged(decoder, valid, 2006, seed=1), 2006)


HOSTILE = {
    "ffconcat": b"ffconcat version 1.0\nfile '/etc/passwd'\n",
    "hls": b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
    "svg": b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'><image href='/etc/passwd'/></svg>",
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n%%EOF\n",
    "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
    "dash": b"<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011'></MPD>",
}


@pytest.mark.parametrize("kind", list(MediumKind))
@pytest.mark.parametrize("name", HOSTILE)
def test_what_points_at_other_files_is_no_medium(decoder, kind, name):
    """Whatever its name is: names are never looked at."""
    with pytest.raises(SampleError) as caught:
        decoder.render(HOSTILE[name], kind)
    assert caught.value.code is RejectCode.UNKNOWN_FORMAT


def outcome_of(decoder, data, kind):
    """As the table has it: the code of the reject, or what is on display."""
    try:
        rendered = decoder.render(data, kind)
        if kind is MediumKind.IMAGE:
            facts = read_image_facts(data)
            return rendered, (facts.width_px, facts.height_px)
        facts = decoder.read_video_facts(data)
    except SampleError as reject:
        return None, reject.code
    num_views = len(rendered.views)
    assert num_views == count_frames(facts.duration_s, POLICY.frames)
    return rendered, (facts.width_px, facts.height_px, num_views, rendered.report.num_damaged)


@pytest.mark.real
@pytest.mark.parametrize(
    ("folder", "kind", "expected"),
    [("images", MediumKind.IMAGE, PICTURES), ("videos", MediumKind.VIDEO, CLIPS)],
    ids=["images", "videos"],
)
def test_every_real_file_gives_what_is_expected_in_time(media_folder, decoder, folder, kind, expected):
    found = {}
    for path in sorted((media_folder / folder).rglob("*")):
        if path.is_file():
            started_s = time.monotonic()
            rendered, outcome = outcome_of(decoder, path.read_bytes(), kind)
            assert time.monotonic() - started_s < allow_time(DecodeLimits(), 120.0, 3600), path.name
            assert rendered is None or rendered.views.max() > 0 or path.name in BLACK, path.name
            found[path.relative_to(media_folder / folder).as_posix()] = outcome
    assert found == expected


@pytest.mark.real
@pytest.mark.parametrize("kind", list(MediumKind))
def test_no_annotation_file_is_a_medium(media_folder, decoder, kind):
    paths = [path for path in (media_folder / "annotations").iterdir() if path.is_file()]
    outcomes = {
        outcome_of(decoder, path.read_bytes(), kind) for path in (*paths, media_folder / "SOURCES.md")
    }
    assert len(paths) > 5
    assert outcomes == {(None, RejectCode.UNKNOWN_FORMAT)}
