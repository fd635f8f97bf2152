"""`onetoken inspect FILE`: facts, views as PNG, frame times; what is shown is what would be encoded."""

import io

import numpy as np
import pytest
from indexed_clips import make_clip, read_index
from PIL import Image
from rich.console import Console
from small_job import run_onetoken, write_yaml

from jobs.thumbnails import THUMBNAIL_PX, print_thumbnails
from operators.image import decode_image
from operators.preprocess import CLIP_PROCESSOR, render_views
from operators.views import plan_views


@pytest.fixture
def picture(tmp_path):
    levels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path / "noise.png")
    return tmp_path / "noise.png"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clips") / "variable.mp4"
    path.write_bytes(make_clip("mp4-variable"))
    return path


@pytest.fixture
def recipe(tmp_path):
    """A function that writes a recipe with these views."""

    def write(**views):
        source = {"name": "s", "format": "llava", "annotations": "a.json", "media_root": "media"}
        return write_yaml(tmp_path / "recipe.yaml", {"name": "one", "sources": [source], "views": views})

    return write


def test_a_picture_is_told_in_words(picture):
    outcome = run_onetoken("inspect", picture)
    assert outcome.status == 0
    lines = outcome.out.splitlines()
    assert lines[0] == f"{picture}: png picture, 90 x 60 pixels on display"
    assert [line.split() for line in lines[2:]] == [
        ["0,", "-15,", "45,", "45"],
        ["45,", "-15,", "45,", "45"],
        ["0,", "30,", "45,", "45"],
        ["45,", "30,", "45,", "45"],
        ["0,", "-15,", "90,", "90"],
    ]


def test_the_views_of_a_picture_are_written(picture, tmp_path):
    outcome = run_onetoken("inspect", picture, "--out", tmp_path / "views", "--json")
    files = sorted((tmp_path / "views").iterdir())
    assert outcome.values["files"] == [str(file) for file in files]
    assert [file.name for file in files] == [f"noise-{number:03d}.png" for number in range(5)]
    expected = render_views(
        decode_image(picture.read_bytes()), plan_views(90, 60, "hd4", "pad"), CLIP_PROCESSOR
    )
    written = np.stack([np.asarray(Image.open(file)) for file in files])
    np.testing.assert_array_equal(written, expected)


def test_a_recipe_says_how_views_are_cut(picture, recipe):
    values = run_onetoken(
        "inspect", picture, "--recipe", recipe(image="global", aspect="center"), "--json"
    ).values
    assert values["views"] == [[15, 0, 60, 60]]


def test_a_clip_tells_its_frames(clip, tmp_path):
    """15 frames at uneven times over 7.1 s: one that shows for three seconds is seen again."""
    outcome = run_onetoken("inspect", clip, "--out", tmp_path / "views", "--json")
    times_s = outcome.values["times_s"]
    assert times_s == pytest.approx([0.0, 0.4, 1.9, 2.05, 2.05, 5.0, 5.066, 7.0], abs=1e-3)
    assert (outcome.values["backend"], outcome.values["num_damaged_packets"]) == ("pyav", 0)
    files = sorted((tmp_path / "views").iterdir())
    assert [file.name for file in files][:3] == [
        "variable-000-0.000s.png",
        "variable-001-0.400s.png",
        "variable-002-1.900s.png",
    ]
    assert len(files) == len(times_s)
    words = run_onetoken("inspect", clip).out
    assert "mp4 clip, 160 x 96 pixels on display" in words
    assert "8 views, by pyav, of the frames at 0, 0.4, 1.9, 2.05, 2.05, 5, 5.066, 7 s" in words


def test_what_is_left_out_is_told(clip, recipe):
    outcome = run_onetoken("inspect", clip, "--recipe", recipe(video={"fps": 2.0, "max_frames": 4}))
    assert "spread over the clip: 11 views more are over max_frames" in outcome.out


def test_the_frames_of_the_published_loader_can_be_seen(clip, recipe, tmp_path):
    """Of 15 frames the middles of 8 segments: (14 / 8) a segment, by counting and not by time."""
    views = {"fps": None, "uniform": 8, "rule": "reference"}
    run_onetoken("inspect", clip, "--recipe", recipe(video=views, aspect="squash"), "--out", tmp_path / "v")
    found = []
    for file in sorted((tmp_path / "v").iterdir()):
        pixels = np.asarray(Image.open(file).resize((160, 96)))
        found.append(read_index(pixels))
    assert found == [1, 3, 4, 6, 8, 9, 11, 13]


def test_what_would_be_rejected_is_refused_with_its_code(tmp_path):
    path = tmp_path / "list.mp4"
    path.write_bytes(b"ffconcat version 1.0\nfile /etc/passwd\n")
    outcome = run_onetoken("inspect", path)
    assert (outcome.status, outcome.out) == (1, "")
    assert f"unknown_format: {path}: " in outcome.said


def test_options_of_media_go_with_media(tmp_path):
    outcome = run_onetoken("inspect", tmp_path, "--out", tmp_path / "views")
    assert (outcome.status, outcome.out) == (2, "")
    assert "--recipe and --out go with one" in outcome.said


def test_thumbnails_show_the_colors_of_the_views():
    red = np.full((64, 64, 3), (200, 10, 10), np.uint8)
    halves = red.copy()
    halves[32:] = (10, 200, 10)
    file = io.StringIO()
    console = Console(
        file=file, force_terminal=True, color_system="truecolor", width=80, legacy_windows=False
    )
    print_thumbnails(np.stack([red, halves, red]), console)
    lines = file.getvalue().splitlines()
    assert len(lines) == 2 * (THUMBNAIL_PX // 2 + 1)
    assert lines[0].count("▀") == 2 * THUMBNAIL_PX
    assert "38;2;200;10;10" in lines[0]
    assert "10;200;10" not in lines[0]
    assert "38;2;10;200;10" in lines[THUMBNAIL_PX // 2 - 1]
    assert lines[-2].count("▀") == THUMBNAIL_PX
