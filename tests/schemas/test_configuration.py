"""Recipes from YAML: what is accepted, and what a user is told otherwise."""

import pytest

from schemas.configuration import parse_yaml
from schemas.errors import ConfigError
from schemas.recipe import Recipe

RECIPE = """
name: small
sources:
  - {name: captions, format: llava, annotations: captions.json, media_root: images}
shards: {max_bytes: 64MiB}
"""
DIGEST_WITHOUT_UNWANTED = "76acec400e7370bc5415f4913ffd905d1fe2e6c49e0e7e0c5da016bfb830b1a5"
"""As corpora bear it that were ingested before such media counted."""


def test_sizes_and_defaults() -> None:
    recipe = parse_yaml(RECIPE, Recipe, "r.yaml")
    assert recipe.shards.max_bytes == 64 * 2**20
    assert recipe.views.image == "hd4"
    assert recipe.encoder.model == "openai/clip-vit-large-patch14-336"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (RECIPE.replace("media_root", "media_rot"), "'sources.0.media_rot', did you mean 'media_root'"),
        (RECIPE + "codecs: int8\n", "unknown key 'codecs', did you mean 'codec'"),
        (RECIPE + "max_frames: 9\n", "unknown key 'max_frames', did you mean 'views.video.max_frames'"),
        (RECIPE + "fps: 1\n", "unknown key 'fps', did you mean 'views.video.fps'"),
        (RECIPE.replace("media_root", "shards"), r"unknown key 'sources\.0\.shards', did you mean 'shards'"),
        (RECIPE + "views: {video: {frames: 9}}\n", "'views.video.frames', did you mean 'max_frames'"),
        (RECIPE + "zzz: 1\n", "unknown key 'zzz'$"),
        (RECIPE + "name: again\n", "'name' stands twice"),
        ("a: &x [1]\nb: *x\n", r"aliases \(\*x\) are refused"),
        ("name: !!python/object/apply:os.system [ls]\n", "tags \\(!\\) are refused"),
        ("name: !!bool maybe\n", "tags \\(!\\) are refused"),
        ("? [a, b]\n: 1\n", "a key is no plain text"),
        ("name: 2024-99-99\n", "not readable as YAML: month"),
        (f"name: {'1' * 6000}\n", "not readable as YAML: Exceeds the limit"),
        (RECIPE.replace("captions.json", "[]"), "at least 1 item"),
        ("- 1\n", "should be a valid dictionary"),
        ("{{{", "not readable as YAML"),
        (RECIPE.replace("64MiB", "64 megs"), "write 1000000, 64MiB or 1GiB"),
        (RECIPE.replace("small", "Small corpus"), "is no name"),
        (RECIPE.replace("format: llava,", "format: lava,"), "'llava', .* 'sharegpt' or 'llava_yaml'"),
        (
            RECIPE.replace("format: llava,", "format: llava_yaml, take: 'first:9',"),
            "sources.0: a yaml list says by sampling_strategy",
        ),
        (RECIPE.replace("sources:", "sources: []\nx:"), "at least 1 item"),
        (RECIPE + "views: {video: {fps: 1, uniform: 8}}\n", "either fps or uniform"),
        ("[" * 5000, "not readable as YAML"),
    ],
)
def test_what_is_wrong_is_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse_yaml(text, Recipe, "r.yaml")
    assert str(caught.value).startswith("r.yaml: ")
    assert caught.value.exit_status == 2


def test_the_run_digest_knows_neither_places_nor_its_name() -> None:
    recipe = parse_yaml(RECIPE, Recipe, "r.yaml")
    moved = parse_yaml(RECIPE.replace("images", "/elsewhere").replace("small", "renamed"), Recipe, "r.yaml")
    assert moved.name == "renamed"
    other = parse_yaml(RECIPE.replace("64MiB", "65MiB"), Recipe, "r.yaml")
    assert recipe.ingest_digest == moved.ingest_digest != other.ingest_digest


def test_the_run_digest_knows_what_media_nobody_wants_in_any_order() -> None:
    def digest(*unwanted: str) -> str:
        listed = f"images, reject_media: [{', '.join(unwanted)}]"
        return parse_yaml(RECIPE.replace("images", listed), Recipe, "r.yaml").ingest_digest

    a, b = "a" * 64, "b" * 64
    assert len({digest(), digest(a), digest(b), digest(a, b)}) == 4
    assert digest(a, b) == digest(b, a) == digest(b, a, a)
    assert digest() == DIGEST_WITHOUT_UNWANTED
