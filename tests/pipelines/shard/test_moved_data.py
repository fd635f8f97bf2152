"""A corpus does not tell where its data lay: moved or addressed otherwise, they give the same bytes."""

import json
import shutil

import pytest
from watched_storage import read_objects

from infra.storage import LocalStorage
from pipelines.engine import SerialEngine
from pipelines.ingest.flow import ingest
from pipelines.ingest.tables import read_examples, read_media, read_quarantine
from pipelines.shard.flow import shard
from schemas.configuration import build
from schemas.errors import ConfigError, CorruptError, MismatchError
from schemas.recipe import Recipe


def spread(folder):
    """Embedded pictures in two files that a glob finds, with rejects; rows in two files of one base name."""
    (folder / "sets/one/more").mkdir(parents=True)
    shutil.move(folder / "one.parquet", folder / "sets/one/0.parquet")
    shutil.copy(folder / "sets/one/0.parquet", folder / "sets/one/more/0.parquet")
    (folder / "left").mkdir()
    shutil.move(folder / "llava.json", folder / "left/llava.json")
    (folder / "right").mkdir()
    rows = [{"id": "right", "conversations": []}, {"id": "none", "image": "gone.jpg"}]
    (folder / "right/llava.json").write_text(json.dumps(rows))


def recipe_of(tiny_recipe, root):
    """The recipe with its data below a root, which is written as it is given."""
    values = tiny_recipe.model_dump(mode="json")
    mix, qa, one = values["sources"]
    mix |= {
        "annotations": [f"{root}right/llava.json", f"{root}left/llava.json"],
        "media_root": f"{root}media",
    }
    qa |= {"annotations": f"{root}qa.json", "media_root": f"{root}media/clips"}
    one |= {"annotations": f"{root}sets/**/*.parquet"}
    return build(values, Recipe, "moved")


TOLD = ("probes", "recipes")
"""Folders that tell where data lay; nothing that is built depends on them."""


def build_corpus(recipe, storage):
    ingest(recipe, storage, SerialEngine())
    return shard(recipe, storage, SerialEngine())


@pytest.fixture
def spread_folder(tiny_folder):
    spread(tiny_folder)
    return tiny_folder


def test_moved_data_give_the_same_corpus(tiny_recipe, spread_folder, tmp_path, monkeypatch):
    here = LocalStorage(tmp_path / "here")
    manifest = build_corpus(recipe_of(tiny_recipe, ""), here)
    expected = {path: data for path, data in read_objects(here.url).items() if not path.startswith(TOLD)}
    assert len(manifest.shards) > 3
    far = tmp_path / "far/away"
    shutil.copytree(spread_folder, far)
    for number, (cwd, root) in enumerate(
        [(spread_folder, f"{spread_folder}/"), (far, "./"), (far.parent, "away/"), (far / "media", "../")]
    ):
        monkeypatch.chdir(cwd)
        there = LocalStorage(tmp_path / f"there{number}")
        build_corpus(recipe_of(tiny_recipe, root), there)
        found = read_objects(there.url)
        assert {path.partition("/")[0] for path in found if path.startswith(TOLD)} == set(TOLD)
        assert {path: data for path, data in found.items() if not path.startswith(TOLD)} == expected


def test_tables_name_files_below_the_folder_that_they_share(tiny_recipe, spread_folder, tmp_path):
    storage = LocalStorage(tmp_path / "corpus")
    manifest = build_corpus(recipe_of(tiny_recipe, f"{spread_folder}/"), storage)
    examples = [row for entry in manifest.examples for row in read_examples(storage, entry)]
    assert {(row.source, row.record_file) for row in examples} == {
        ("mix", "left/llava.json"),
        ("qa", "qa.json"),
        ("one", "0.parquet"),
        ("one", "more/0.parquet"),
    }
    rejects = [row for entry in manifest.quarantine for row in read_quarantine(storage, entry)]
    assert {reject.locator.file for reject in rejects} == {"left/llava.json", "right/llava.json", "qa.json"}
    media = [row for entry in manifest.media for row in read_media(storage, entry)]
    assert {row.location for row in media if row.source == "one"} == {f"0.parquet#{n}" for n in range(3)}
    tables = [data for path, data in read_objects(storage.url).items() if path.endswith(".parquet")]
    assert len(tables) == len(manifest.examples) + len(manifest.media) + len(manifest.quarantine) == 5
    for entry in (*manifest.examples, *manifest.media, *manifest.quarantine):
        assert str(tmp_path).encode() not in storage.read_bytes(entry.path)


def test_one_file_under_two_spellings_is_read_once(tiny_recipe, spread_folder, tmp_path):
    recipe = recipe_of(tiny_recipe, "")
    spellings = ["qa.json", "./qa.json", "media/../qa.json", f"{spread_folder}/qa.json", "q*.json"]
    qa = recipe.sources[1].model_copy(update={"annotations": spellings})
    storage = LocalStorage(tmp_path / "corpus")
    (totals,) = ingest(recipe.model_copy(update={"sources": [qa]}), storage, SerialEngine()).manifest.sources
    assert totals.read == 5


def test_messages_name_source_and_whole_path(tiny_recipe, spread_folder, tmp_path):
    recipe = recipe_of(tiny_recipe, "../inputs/")
    storage = LocalStorage(tmp_path / "corpus")
    rootless = recipe.sources[0].model_copy(update={"media_root": None})
    with pytest.raises(ConfigError, match="source mix: its records name media; give the source a media_root"):
        ingest(recipe.model_copy(update={"sources": [rootless]}), storage, SerialEngine())
    ingest(recipe, storage, SerialEngine())
    path = spread_folder / "sets/one/0.parquet"
    path.write_bytes(path.read_bytes().replace(b"PNG", b"GNP"))
    with pytest.raises(MismatchError, match=f"{spread_folder}/sets/one/0.parquet#"):
        shard(recipe, storage, SerialEngine())
    (spread_folder / "left/llava.json").write_text("[1")
    with pytest.raises(CorruptError, match=r"annotations \.\./inputs/left/llava\.json: row 1, byte 2"):
        ingest(recipe, storage, SerialEngine())
