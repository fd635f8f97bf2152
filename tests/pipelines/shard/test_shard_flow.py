"""Sample shards: what stands in them, who can read them, and that dying at any write changes no byte."""

import io
import json
import subprocess
from pathlib import Path

import pytest
import webdataset
from watched_storage import DiedError, MortalStorage, read_objects

from infra.storage import LocalStorage
from infra.tar import read_index, scan_tar
from pipelines.commit import load_manifest
from pipelines.engine import SerialEngine
from pipelines.featurize.flow import featurize
from pipelines.ingest.flow import ingest
from pipelines.ingest.retry import retry
from pipelines.ingest.tables import read_examples, read_media
from pipelines.shard.flow import shard
from schemas.digest import canonical_json, sha256_hex
from schemas.errors import ConfigError, MismatchError, NotFoundError
from schemas.medium import item_key_of_media
from schemas.recipe import ShardLimits


def build_corpus(recipe, storage, engine=None):
    engine = engine or SerialEngine()
    ingest(recipe, storage, engine)
    return shard(recipe, storage, engine)


def members_of(storage, manifest):
    """All members of all shards, by name."""
    found = {}
    for entry in manifest.shards:
        data = storage.read_bytes(entry.tar.path)
        for member in scan_tar(io.BytesIO(data)):
            assert member.name not in found
            found[member.name] = data[member.offset : member.offset + member.size]
    return found


@pytest.fixture
def storage(tmp_path):
    return LocalStorage(tmp_path / "corpus")


def test_shards_hold_every_item_with_all_its_conversations(tiny_recipe, storage):
    manifest = build_corpus(tiny_recipe, storage)
    members = members_of(storage, manifest)
    examples = [row for entry in manifest.examples for row in read_examples(storage, entry)]
    media = {
        item_key_of_media((row.facts.sha256,)): row.facts
        for entry in manifest.media
        for row in read_media(storage, entry)
    }
    keys = {example.item_key for example in examples}
    assert len(members) == len(keys) + len(media)
    told = []
    for key in keys:
        raw = members[f"{key}.json"]
        item = json.loads(raw)
        assert canonical_json(item) == raw
        assert sorted(item) == ["examples", "key", "media", "modality"]
        assert item["key"] == key
        ids = [example["example_id"] for example in item["examples"]]
        assert ids == sorted(ids)
        for example in item["examples"]:
            turns = [[turn["from"], turn["value"]] for turn in example["conversations"]]
            told.append((example["example_id"], example["source"], key, canonical_json(turns)))
        if key in media:
            facts = media[key]
            assert sha256_hex(members[f"{key}.0.{facts.extension}"]) == facts.sha256
            assert item["media"] == [
                {
                    "sha256": facts.sha256,
                    "kind": facts.kind.value,
                    "extension": facts.extension,
                    "num_bytes": facts.num_bytes,
                    "width_px": facts.width_px,
                    "height_px": facts.height_px,
                    "duration_s": facts.duration_s,
                }
            ]
        else:
            assert item["media"] == []
    assert sorted(told) == sorted((e.example_id, e.source, e.item_key, e.conversation) for e in examples)
    assert len(told) == 29


def test_the_manifest_lists_what_was_planned(tiny_recipe, storage):
    manifest = build_corpus(tiny_recipe, storage)
    assert load_manifest(storage) == manifest
    assert [entry.name for entry in manifest.shards] == [leaf.name for leaf in manifest.plan]
    assert {leaf.modality.value for leaf in manifest.plan} == {"image", "video", "text"}
    assert len(manifest.plan) >= 5
    assert sum(leaf.num_media_bytes for leaf in manifest.plan) == manifest.num_media_bytes
    assert sum(leaf.num_views for leaf in manifest.plan) == 11 * 5 + 2 * 3
    for entry, leaf in zip(manifest.shards, manifest.plan, strict=True):
        assert entry.tar.num_rows == leaf.num_items
        data = storage.read_bytes(entry.tar.path)
        assert read_index(storage.read_bytes(entry.index.path)) == scan_tar(io.BytesIO(data))
        for listed in (entry.tar, entry.index):
            assert sha256_hex(storage.read_bytes(listed.path)) == listed.sha256
            assert listed.sha256[:16] in listed.path


def test_webdataset_and_tar_read_the_shards(tiny_recipe, storage):
    manifest = build_corpus(tiny_recipe, storage)
    urls = [str(storage.local_path(entry.tar.path)) for entry in manifest.shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    members = members_of(storage, manifest)
    read_back = {
        f"{sample['__key__']}.{name}": value
        for sample in samples
        for name, value in sample.items()
        if not name.startswith("__")
    }
    assert read_back == members
    assert len(samples) == sum(leaf.num_items for leaf in manifest.plan)
    for url, entry in zip(urls, manifest.shards, strict=True):
        listed = subprocess.run(["tar", "tf", url], capture_output=True, text=True, check=True)
        assert listed.stderr == ""
        index = read_index(storage.read_bytes(entry.index.path))
        assert listed.stdout.split() == [member.name for member in index]


def test_any_engine_gives_the_same_corpus(tiny_recipe, tmp_path, far_engine):
    here, there = LocalStorage(tmp_path / "here"), LocalStorage(tmp_path / "there")
    build_corpus(tiny_recipe, here)
    build_corpus(tiny_recipe, there, far_engine)
    assert read_objects(here.url) == read_objects(there.url)
    assert len(read_objects(here.url)) > 20


class Unreadable(SerialEngine):
    """An engine that may not be used."""

    def run(self, spec, units, resources=None, stage=""):
        assert not units
        return iter(())


def test_a_second_run_reads_no_medium(tiny_recipe, tiny_folder, storage):
    first = build_corpus(tiny_recipe, storage)
    before = read_objects(storage.url)
    for path in (tiny_folder / "media").rglob("*.*"):
        path.unlink()
    assert shard(tiny_recipe, storage, Unreadable()) == first
    assert read_objects(storage.url) == before


def test_a_new_medium_rewrites_its_leaf_alone(tiny_recipe, tiny_folder, storage):
    first = build_corpus(tiny_recipe, storage)
    rows = json.loads((tiny_folder / "llava.json").read_text())
    rows.append(rows[0] | {"image": "pictures/new.jpg"})
    (tiny_folder / "llava.json").write_text(json.dumps(rows))
    old = (tiny_folder / "media/pictures/0.jpg").read_bytes()
    (tiny_folder / "media/pictures/new.jpg").write_bytes(old + b"\0")
    second = build_corpus(tiny_recipe, storage)
    kept = [entry for entry in second.shards if entry in first.shards]
    assert len(kept) >= len(first.shards) - 1
    assert len(kept) < len(second.shards)


def test_a_changed_text_rewrites_the_shard_of_its_item_alone(tiny_recipe, tiny_folder, storage):
    first = build_corpus(tiny_recipe, storage)
    text = (tiny_folder / "llava.json").read_text()
    (tiny_folder / "llava.json").write_text(text.replace("A11.", "Another answer."))
    second = build_corpus(tiny_recipe, storage)
    assert second.plan == first.plan
    changed = [(old, new) for old, new in zip(first.shards, second.shards, strict=True) if old.tar != new.tar]
    assert len(changed) == 1
    assert len(first.shards) > 1


@pytest.mark.parametrize("change", ["other bytes", "gone", "a link to the outside"])
def test_media_that_changed_since_ingest_end_the_run(tiny_recipe, tiny_folder, storage, change):
    ingested = ingest(tiny_recipe, storage, SerialEngine()).manifest
    picture = tiny_folder / "media/pictures/3.jpg"
    picture.unlink()
    if change == "other bytes":
        picture.write_bytes((tiny_folder / "media/pictures/2.jpg").read_bytes())
    elif change == "a link to the outside":
        picture.symlink_to(tiny_folder / "outside.jpg")
    with pytest.raises(MismatchError, match=r"pictures/3\.jpg.*run ingest again"):
        shard(tiny_recipe, storage, SerialEngine())
    assert load_manifest(storage) == ingested


def test_another_recipe_is_refused(tiny_recipe, storage):
    with pytest.raises(NotFoundError, match="onetoken ingest"):
        shard(tiny_recipe, storage, SerialEngine())
    build_corpus(tiny_recipe, storage)
    rootless = tiny_recipe.sources[0].model_copy(update={"media_root": None})
    sources = [rootless, *tiny_recipe.sources[1:]]
    elsewhere = LocalStorage(Path(storage.url) / "elsewhere")
    ingest(tiny_recipe, elsewhere, SerialEngine())
    with pytest.raises(ConfigError, match="give the source a media_root"):
        shard(tiny_recipe.model_copy(update={"sources": sources}), elsewhere, SerialEngine())
    other = tiny_recipe.model_copy(update={"shards": ShardLimits(max_bytes=5000)})
    with pytest.raises(MismatchError, match="run `onetoken ingest` with it first"):
        shard(other, storage, SerialEngine())


@pytest.mark.parametrize("verb", [retry, shard, featurize])
def test_a_recipe_that_wants_other_media_is_refused(tiny_recipe, storage, verb):
    build_corpus(tiny_recipe, storage)
    unwanting = tiny_recipe.sources[0].model_copy(update={"reject_media": ("0" * 64,)})
    other = tiny_recipe.model_copy(update={"sources": [unwanting, *tiny_recipe.sources[1:]]})
    with pytest.raises(MismatchError, match="run `onetoken ingest`"):
        verb(other, storage, SerialEngine())


def test_dying_before_any_write_and_starting_again_changes_no_byte(tiny_recipe, tmp_path):
    undisturbed = LocalStorage(tmp_path / "undisturbed")
    build_corpus(tiny_recipe, undisturbed)
    expected = read_objects(undisturbed.url)
    num_deaths = 0
    while True:
        storage = LocalStorage(tmp_path / f"{num_deaths}")
        try:
            build_corpus(tiny_recipe, MortalStorage(storage.url, num_deaths))
        except DiedError:
            num_deaths += 1
        else:
            break
        build_corpus(tiny_recipe, storage)
        assert read_objects(storage.url) == expected
    assert read_objects(storage.url) == expected
    # tables, shards, indexes, commits, recipe, two manifests and their pointers; what passes between stages
    assert num_deaths > len(expected) + 10


def test_dying_again_and_again_still_arrives(tiny_recipe, tmp_path):
    undisturbed = LocalStorage(tmp_path / "undisturbed")
    build_corpus(tiny_recipe, undisturbed)
    storage = LocalStorage(tmp_path / "unlucky")
    num_runs = 0
    while True:
        num_runs += 1
        try:
            build_corpus(tiny_recipe, MortalStorage(storage.url, 8 + num_runs))
            break
        except DiedError:
            continue
    assert read_objects(storage.url) == read_objects(undisturbed.url)
    assert num_runs > 2
