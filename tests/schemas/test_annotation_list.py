"""LLaVA-Mini's yaml lists: what they select, in our words, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.annotation_list import ListedAnnotations, parse_yaml_list
from schemas.configuration import build
from schemas.errors import ConfigError
from schemas.recipe import SourceConfig

LIST = """
datasets:
  - json_path: a/all.json
  - json_path: a/all.jsonl
    sampling_strategy: all
  - json_path: s3://bucket/first.json # not released
    sampling_strategy: "first:10%"
  - json_path: /data/end.json
    sampling_strategy: end:1000
  - {json_path: random.json, sampling_strategy: "Random:7%"}
"""


def list_one(path="a.json", strategy="all"):
    return f"datasets:\n- json_path: {path}\n  sampling_strategy: '{strategy}'\n"


def test_a_list_in_the_published_form():
    assert parse_yaml_list(LIST, "mix.yaml") == (
        ListedAnnotations("a/all.json", "all"),
        ListedAnnotations("a/all.jsonl", "all"),
        ListedAnnotations("s3://bucket/first.json", "first:10%"),
        ListedAnnotations("/data/end.json", "last:1000"),
        ListedAnnotations("random.json", "random:7%"),
    )


@given(
    how=st.sampled_from(["first", "end", "random"]),
    number=st.integers(0, 10**9),
    unit=st.sampled_from(["", "%"]),
)
def test_every_strategy_is_a_take_that_a_recipe_accepts(how, number, unit):
    (listed,) = parse_yaml_list(list_one(strategy=f"{how}:{number}{unit}"), "mix.yaml")
    fields = {"name": "x", "format": "llava", "annotations": listed.path, "take": listed.take}
    assert build(fields, SourceConfig, "recipe").take == f"{how.replace('end', 'last')}:{number}{unit}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "should be a valid dictionary"),
        ("datasets: []\n", "at least 1 item"),
        ("dataset: []\n", "unknown key 'dataset', did you mean 'datasets'"),
        (LIST.replace("datasets", "data"), "'datasets' is missing"),
        ("datasets:\n- jsonpath: a.json\n", "did you mean 'json_path'"),
        (list_one() + "  video_folder: x\n", r"unknown key 'datasets\.0\.video_folder'"),
        (list_one(path='""'), "at least 1 character"),
        ("datasets:\n- json_path: 3\n", "should be a valid string"),
        (list_one() + "- json_path: ./b/../a.json\n", r"datasets\.1: ./b/../a\.json is already datasets\.0"),
        (list_one(strategy="first"), r"datasets\.0: sampling_strategy 'first': write all, first:N"),
        (list_one(strategy="last:3"), "write all, first:N, end:N or random:N"),
        (list_one(strategy="first:-3"), "write all"),
        (list_one(strategy="first:2.5%"), "write all"),
        (list_one(strategy="all:3"), "write all"),
        ("a: &x [1]\nb: *x\n", "aliases"),
        (list_one() + "  json_path: b.json\n", "stands twice"),
        ("datasets: [" * 40, "not readable as YAML"),
    ],
)
def test_what_is_wrong_is_named(text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        parse_yaml_list(text, "mix.yaml")
    assert str(caught.value).startswith("mix.yaml: ")
