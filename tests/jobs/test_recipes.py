"""The shipped data recipes: they parse, share one feature spec, and their stated counts add up."""

import math
import re
from pathlib import Path

import pytest

from operators.annotations import LAYOUTS
from pipelines.analyze.corpus_counts import count_recipe
from schemas.configuration import parse_yaml
from schemas.recipe import Recipe

FOLDER = Path(__file__).resolve().parents[2] / "jobs/recipes"
NAMES = ("pretrain_558k", "mix_665k", "video_chatgpt_100k", "llava_mini_665k", "open_3m")


def read_text(name):
    return (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")


def read_recipe(name):
    return parse_yaml(read_text(name), Recipe, name)


def count(number):
    return int(number.replace(",", ""))


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_parses_and_leads_to_its_media(name):
    recipe = read_recipe(name)
    assert recipe.name == name.replace("_", "-")
    for source in recipe.sources:
        assert LAYOUTS[source.format].is_embedded == (source.media_root is None)


def test_recipes_can_share_their_features_and_sources():
    recipes = [read_recipe(name) for name in NAMES]
    specs = {(one.views, one.encoder, one.codec, one.shards) for one in recipes}
    assert len(specs) == 1
    mini = {source.name: source for source in read_recipe("llava_mini_665k").sources}
    parts = [source for one in recipes[:3] for source in one.sources]
    assert {source.name: source for source in parts} == mini
    assert [mini.get(source.name) for source in read_recipe("open_3m").sources[:3]] == list(mini.values())


def test_the_stated_counts_of_the_mixture_add_up():
    text = read_text("open_3m")
    lines = [line for line in text.splitlines() if line.startswith("  - {")]
    recipe = read_recipe("open_3m")
    assert len(lines) == len(recipe.sources) > 80
    total, num_uncounted = 0, 0
    for line, source in zip(lines, recipe.sources, strict=True):
        assert f"name: {source.name}," in line
        if line.endswith("# count not published"):
            assert source.take == "all"
            assert source.counts is None
            num_uncounted += 1
            continue
        stated = re.search(r"  # ([\d,]+)(?: of ([\d,]+))?(?: \(.*\))?$", line)
        assert stated, line
        total += count(stated[1])
        assert source.counts.examples == count(stated[1])
        if source.take != "all":
            share = re.fullmatch(r"first:(\d+)%", source.take)
            assert share, line
            assert count(stated[1]) == math.ceil(int(share[1]) * count(stated[2]) / 100), line
    assert num_uncounted == 4
    counts = count_recipe(recipe)
    assert counts.examples == total
    assert counts.uncounted == tuple(source.name for source in recipe.sources if not source.counts)
    assert counts.images.uses == total - 100_000 - (665_298 - 624_610) - 449_995
    assert f"{total:,}, of which 558,128 are captions" in text
    assert f"{total - 558_128:,} instructions" in text
    assert total == pytest.approx(3_000_000, rel=0.05)


def test_no_file_is_read_twice():
    patterns = [source.annotations for source in read_recipe("open_3m").sources]
    assert len(set(patterns)) == len(patterns)
