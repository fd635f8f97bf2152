"""Which files a source names, and what they are called in tables."""

import os

import pytest

from infra.files import open_files
from infra.s3_client import connect
from pipelines.ingest.annotations import AnnotationFile, list_annotations
from schemas.errors import ConfigError
from schemas.recipe import SourceConfig


def listed(annotations, here):
    return list_annotations(SourceConfig(name="s", format="llava", annotations=annotations), here)


@pytest.fixture
def here(tmp_path):
    for path in ("data/a.json", "data/sub/b.json", "data/sub/c.jsonl", "other/a.json"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("[]")
    return tmp_path


@pytest.mark.parametrize(
    ("annotations", "folder", "names"),
    [
        ("data/a.json", "data", ["a.json"]),
        ("data/**/*.json", "data", ["a.json", "sub/b.json"]),
        (["data/sub/c.jsonl", "data/sub/b.json"], "data/sub", ["b.json", "c.jsonl"]),
        (["data/a.json", "other/a.json"], ".", ["data/a.json", "other/a.json"]),
        (["data/a.json", "./data/../data/a.json", "data/*.json"], "data", ["a.json"]),
    ],
)
def test_names_start_from_the_shared_folder(here, annotations, folder, names):
    found = listed(annotations, here)
    assert found.folder == os.path.normpath(here / folder)
    assert [file.name for file in found.files] == names
    files = open_files(found.folder)
    assert [files.state(file.name).num_bytes for file in found.files] == [2] * len(names)


def test_a_file_is_called_as_the_recipe_leads_to_it(here):
    (file,) = listed("data/../data/a.json", here).files
    assert file == AnnotationFile("a.json", "data/a.json")
    (file,) = listed(f"file://{here}/data/a.json", here).files
    assert file == AnnotationFile("a.json", f"{here}/data/a.json")


def test_a_place_elsewhere_gives_the_same_names(here, tmp_path_factory):
    away = tmp_path_factory.mktemp("away")
    names = [file.name for file in listed("data/**/*.json*", here).files]
    assert [file.name for file in listed(f"{here}/data/**/*.json*", away).files] == names


@pytest.mark.parametrize("annotations", ["gone.json", "data", "data/*.txt", ["data/a.json", "gone.json"]])
def test_what_nothing_answers_to_is_an_error(here, annotations):
    with pytest.raises(ConfigError, match="no annotation file"):
        listed(annotations, here)


def test_only_two_kinds_of_places_are_known(here):
    with pytest.raises(ConfigError, match="local files or s3"):
        listed("https://example.org/a.json", here)


def test_files_on_s3_are_named_in_the_same_way(s3_url, here):
    bucket, _, prefix = s3_url.removeprefix("s3://").partition("/")
    client = connect()
    for path in ("a.json", "sub/b.json"):
        client.call_s3("put_object", Bucket=bucket, Key=f"{prefix}/data/{path}", Body=b"[]")
    found = listed(f"{s3_url}/data/**/*.json", here)
    assert found.folder == f"{s3_url}/data"
    assert found.files == (
        AnnotationFile("a.json", f"{s3_url}/data/a.json"),
        AnnotationFile("sub/b.json", f"{s3_url}/data/sub/b.json"),
    )
    assert open_files(found.folder).state("sub/b.json").num_bytes == 2
    assert listed(f"{s3_url}/data/sub/b.json", here).folder == f"{s3_url}/data/sub"
    with pytest.raises(ConfigError, match="no annotation file"):
        listed(f"{s3_url}/data/gone.json", here)
    with pytest.raises(ConfigError, match="one bucket"):
        listed([f"{s3_url}/data/a.json", "data/a.json"], here)
