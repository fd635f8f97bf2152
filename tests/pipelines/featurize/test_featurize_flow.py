"""The cache of features as a whole: who made it, when it is made again, who can read it."""

import json
import shutil
import subprocess

import pytest
import webdataset
from encodable_inputs import SECRET, draw, encode, make_recipe, picture_row
from watched_storage import DiedError, MortalStorage, WatchedStorage, read_objects

from infra.ray_cluster import ray_cluster
from infra.storage import LocalStorage
from pipelines.commit import load_manifest, publish_manifest
from pipelines.engine import SerialEngine
from pipelines.featurize.flow import featurize
from pipelines.ingest.flow import ingest
from pipelines.ray_engine import RayEngine
from pipelines.shard.flow import shard
from schemas.digest import sha256_hex
from schemas.errors import MismatchError, NotFoundError

NUM_PICTURES, NUM_CLIP_VIEWS = 8, 3
NUM_VIEWS = 5 * NUM_PICTURES + NUM_CLIP_VIEWS


def build_corpus(recipe, storage):
    ingest(recipe, storage, SerialEngine())
    shard(recipe, storage, SerialEngine())
    return featurize(recipe, storage, SerialEngine())


@pytest.fixture
def own_inputs(inputs, tmp_path):
    """Inputs that a test may change."""
    folder = tmp_path / "inputs"
    shutil.copytree(inputs, folder)
    return folder


def test_the_manifest_lists_what_was_encoded(featurized):
    storage, digest, manifest = featurized
    assert load_manifest(storage) == manifest
    features = manifest.features[digest]
    assert (features.num_items, features.num_views) == (NUM_PICTURES + 1, NUM_VIEWS)
    assert features.num_fp16_bytes == NUM_VIEWS * 16 * 32 * 2
    assert features.rejects == []
    leaves = [leaf.name for leaf in manifest.plan if leaf.modality.value != "text"]
    assert [entry.name for entry in features.shards] == leaves
    assert len(leaves) >= 3
    listed = [features.spec, features.attention]
    listed += [entry for both in features.shards for entry in (both.tar, both.index)]
    for entry in listed:
        data = storage.read_bytes(entry.path)
        assert (sha256_hex(data), len(data)) == (entry.sha256, entry.num_bytes)
    assert {entry.path for entry in listed} == set(storage.list(f"features/{digest}"))


def test_an_engine_that_shares_nothing_gives_the_same_corpus(recipe, featurized, new_corpus, far_engine):
    there = new_corpus("there")
    assert featurize(recipe, there, far_engine) == featurized[1:]
    assert read_objects(there.url) == read_objects(featurized[0].url)


@pytest.mark.ray
def test_ray_gives_the_same_corpus(recipe, featurized, new_corpus):
    there = new_corpus("there")
    with ray_cluster(num_cpus=2):
        assert featurize(recipe, there, RayEngine()) == featurized[1:]
    assert read_objects(there.url) == read_objects(featurized[0].url)


def test_no_text_is_in_any_feature_shard(featurized):
    storage, digest, manifest = featurized
    for entry in manifest.features[digest].shards:
        assert SECRET.encode() not in storage.read_bytes(entry.tar.path)
    samples = [storage.read_bytes(entry.tar.path) for entry in manifest.shards]
    assert all(SECRET.encode() in data for data in samples)


def test_plain_readers_read_feature_shards(featurized):
    storage, digest, manifest = featurized
    entries = manifest.features[digest].shards
    urls = [str(storage.local_path(entry.tar.path)) for entry in entries]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert len(samples) == NUM_PICTURES + 1
    for sample in samples:
        assert "." not in sample["__key__"]
        assert {name for name in sample if not name.startswith("__")} == {"feat.bin", "json"}
        facts = json.loads(sample["json"])
        assert sorted(facts) == ["key", "media", "modality"]
        assert facts["key"] == sample["__key__"] == facts["media"][0]["sha256"][:32]
    for url, entry in zip(urls, entries, strict=True):
        listed = subprocess.run(["tar", "tf", url], capture_output=True, text=True, check=True)
        assert listed.stderr == ""
        mine = [sample["__key__"] for sample in samples if sample["__url__"] == url]
        assert listed.stdout.split() == [f"{key}.{end}" for key in mine for end in ("feat.bin", "json")]
        assert len(mine) == entry.tar.num_rows


def test_a_clip_tells_when_its_frames_were_shown(featurized):
    storage, digest, manifest = featurized
    (entry,) = [entry for entry in manifest.features[digest].shards if entry.name.startswith("video")]
    url = str(storage.local_path(entry.tar.path))
    (sample,) = webdataset.WebDataset([url], shardshuffle=False)
    (medium,) = json.loads(sample["json"])["media"]
    assert medium["frame_times_s"] == [0.0, 1.0, 2.0]
    assert (medium["backend"], medium["num_damaged_packets"]) == ("pyav", 0)


def test_a_second_run_encodes_nothing_and_reads_no_medium(recipe, featurized, tmp_path, encoded_counts):
    shutil.copytree(featurized[0].url, tmp_path / "corpus")
    storage = WatchedStorage(tmp_path / "corpus")
    before = read_objects(storage.url)
    assert featurize(recipe, storage, SerialEngine()) == featurized[1:]
    assert read_objects(storage.url) == before
    assert encoded_counts == []
    assert storage.paths_read
    assert not [path for path in storage.paths_read if path.endswith(".tar")]


def test_the_first_run_encodes_every_view_once(recipe, new_corpus, encoded_counts):
    storage = WatchedStorage(new_corpus("fresh").url)
    featurize(recipe, storage, SerialEngine())
    assert sum(encoded_counts) == NUM_VIEWS
    assert [path for path in storage.paths_read if path.endswith(".tar")]


def test_a_changed_text_leaves_the_features_alone(own_inputs, tmp_path, encoded_counts):
    storage = LocalStorage(tmp_path / "corpus")
    recipe = make_recipe(own_inputs)
    digest, first = build_corpus(recipe, storage)
    encoded_counts.clear()
    text = (own_inputs / "llava.json").read_text()
    (own_inputs / "llava.json").write_text(text.replace(f"{SECRET} 3?", "And this?"))
    again, second = build_corpus(recipe, storage)
    assert encoded_counts == []
    assert again == digest
    assert second.features == first.features
    assert second.examples != first.examples
    assert second.shards != first.shards


def test_a_new_medium_is_the_only_one_encoded(own_inputs, tmp_path, encoded_counts):
    storage = LocalStorage(tmp_path / "corpus")
    recipe = make_recipe(own_inputs)
    digest, first = build_corpus(recipe, storage)
    encoded_counts.clear()
    (own_inputs / "media/new.png").write_bytes(encode(draw(99, 44, 40), "PNG"))
    rows = json.loads((own_inputs / "llava.json").read_text())
    (own_inputs / "llava.json").write_text(json.dumps([*rows, picture_row("new.png", 99)]))
    _, second = build_corpus(recipe, storage)
    old, new = first.features[digest], second.features[digest]
    fresh = [entry for entry in new.shards if entry not in old.shards]
    assert 1 <= len(fresh) < len(new.shards)
    assert len([entry for entry in old.shards if entry not in new.shards]) <= 1
    assert sum(encoded_counts) == 5
    assert new.num_views == NUM_VIEWS + 5
    at_once = LocalStorage(tmp_path / "at_once")
    assert build_corpus(recipe, at_once) == (digest, second)
    ours, theirs = (read_objects(one.url) for one in (storage, at_once))
    wanted = {path: data for path, data in theirs.items() if not path.startswith("probes/")}
    assert {path: data for path, data in ours.items() if path in wanted} == wanted


def test_a_mended_encoder_name_finds_the_same_cache(own_inputs, featurized, tmp_path, encoded_counts):
    shutil.copytree(featurized[0].url, tmp_path / "corpus")
    storage = LocalStorage(tmp_path / "corpus")
    (own_inputs / "encoder").rename(own_inputs / "elsewhere")
    digest, manifest = featurize(make_recipe(own_inputs, encoder_name="elsewhere"), storage, SerialEngine())
    assert digest == featurized[1]
    assert manifest.features[digest].shards == featurized[2].features[digest].shards
    assert encoded_counts == []


def test_two_specs_stand_side_by_side(inputs, featurized, tmp_path):
    shutil.copytree(featurized[0].url, tmp_path / "corpus")
    storage = LocalStorage(tmp_path / "corpus")
    before = read_objects(storage.url)
    digest, manifest = featurize(make_recipe(inputs, codec="int8"), storage, SerialEngine())
    assert sorted(manifest.features) == sorted([digest, featurized[1]])
    assert manifest.features[featurized[1]] == featurized[2].features[featurized[1]]
    after = read_objects(storage.url)
    assert {path: after[path] for path in before if path != "corpus.json"} == {
        path: data for path, data in before.items() if path != "corpus.json"
    }


def test_dying_before_any_write_and_starting_again_changes_no_byte(recipe, featurized, new_corpus):
    expected = read_objects(featurized[0].url)
    num_deaths = 0
    while True:
        storage = new_corpus(str(num_deaths))
        try:
            featurize(recipe, MortalStorage(storage.url, num_deaths), SerialEngine())
        except DiedError:
            num_deaths += 1
        else:
            break
        assert read_objects(storage.url) != expected
        assert featurize(recipe, storage, SerialEngine()) == featurized[1:]
        assert read_objects(storage.url) == expected
    assert read_objects(storage.url) == expected
    # a tar, an index and a commit each, then spec, attention, manifest, notice and pointer
    assert num_deaths == 3 * len(featurized[2].features[featurized[1]].shards) + 5


def test_files_of_another_format_are_made_again(recipe, featurized, tmp_path, encoded_counts, monkeypatch):
    storage, digest, manifest = featurized
    copied = LocalStorage(shutil.copytree(storage.url, tmp_path / "copy"))
    old = manifest.features[digest].model_copy(update={"file_format": 1})
    stale = manifest.model_copy(update={"features": {digest: old}})
    publish_manifest(copied, stale, derived_from=manifest)
    monkeypatch.setattr("pipelines.featurize.units.FEATURE_FORMAT", 3)
    monkeypatch.setattr("pipelines.featurize.flow.FEATURE_FORMAT", 3)
    monkeypatch.setattr("pipelines.featurize.reuse.FEATURE_FORMAT", 3)
    _, again = featurize(recipe, copied, SerialEngine())
    assert again.features[digest].file_format == 3
    assert sum(encoded_counts) == NUM_VIEWS
    assert [one.tar for one in again.features[digest].shards] == [one.tar for one in old.shards]


def test_a_shard_that_was_deleted_is_made_again(recipe, featurized, tmp_path, encoded_counts):
    shutil.copytree(featurized[0].url, tmp_path / "corpus")
    storage = LocalStorage(tmp_path / "corpus")
    before = read_objects(storage.url)
    entry = featurized[2].features[featurized[1]].shards[0]
    storage.local_path(entry.tar.path).unlink()
    assert featurize(recipe, storage, SerialEngine()) == featurized[1:]
    assert read_objects(storage.url) == before
    assert sum(encoded_counts) == featurized[2].plan[0].num_views


def test_what_is_not_there_is_named(recipe, inputs, tmp_path, new_corpus):
    empty = LocalStorage(tmp_path / "empty")
    with pytest.raises(NotFoundError, match="onetoken ingest"):
        featurize(recipe, empty, SerialEngine())
    ingest(recipe, empty, SerialEngine())
    with pytest.raises(MismatchError, match="onetoken shard"):
        featurize(recipe, empty, SerialEngine())
    with pytest.raises(NotFoundError, match="nowhere"):
        featurize(make_recipe(inputs, encoder_name="nowhere"), new_corpus("here"), SerialEngine())
