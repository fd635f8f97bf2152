"""Features that move by content: what is copied, what is encoded, and that nobody can tell afterwards."""

import json
import shutil

import pytest
from encodable_inputs import draw, encode, make_recipe, picture_row, recipe_values, talk, write_encoder
from watched_storage import read_objects

from infra.storage import LocalStorage
from pipelines.engine import SerialEngine
from pipelines.featurize.flow import featurize
from pipelines.featurize.reuse import StoredFeatures, find_own_donor, read_spec
from pipelines.featurize.samples import SampleShard
from pipelines.ingest.flow import ingest
from pipelines.shard.flow import shard
from pipelines.upkeep.verify import verify
from schemas.configuration import build
from schemas.errors import CorruptError, MismatchError
from schemas.recipe import Recipe
from schemas.record import Modality

NUM_VIEWS = 43


def shard_corpus(recipe, root):
    storage = LocalStorage(root)
    ingest(recipe, storage, SerialEngine())
    shard(recipe, storage, SerialEngine())
    return storage


@pytest.fixture
def own_inputs(inputs, tmp_path):
    """Inputs that a test may change."""
    folder = tmp_path / "inputs"
    shutil.copytree(inputs, folder)
    return folder


def add_rows(folder, *rows):
    old = json.loads((folder / "llava.json").read_text())
    (folder / "llava.json").write_text(json.dumps([*old, *rows]))


def list_features(storage):
    return {path: data for path, data in read_objects(storage.url).items() if path.startswith("features/")}


def test_another_corpus_gives_its_features_and_only_new_media_are_encoded(
    own_inputs, featurized, tmp_path, encoded_counts
):
    (own_inputs / "media/new.png").write_bytes(encode(draw(99, 44, 40), "PNG"))
    add_rows(own_inputs, picture_row("new.png", 99))
    recipe = make_recipe(own_inputs, name="other", shards={"max_views": 12})
    plain = shard_corpus(recipe, tmp_path / "plain")
    expected = featurize(recipe, plain, SerialEngine())
    encoded_counts.clear()
    there = shard_corpus(recipe, tmp_path / "there")
    assert featurize(recipe, there, SerialEngine(), reuse=featurized[0]) == expected
    assert sum(encoded_counts) == 5
    assert list_features(there) == list_features(plain)
    assert verify(there, SerialEngine()).findings == ()


def test_all_of_a_corpus_is_copied_without_encoding(recipe, featurized, new_corpus, encoded_counts):
    there = new_corpus("there")
    assert featurize(recipe, there, SerialEngine(), reuse=featurized[0]) == featurized[1:]
    assert encoded_counts == []
    assert list_features(there) == list_features(featurized[0])


def test_media_of_an_item_of_several_come_from_items_of_one(own_inputs, featurized, tmp_path, encoded_counts):
    pair = {"image": ["wide.jpg", "clear.png"], "conversations": talk("<image>\n<image>\nBoth?", "Both.")}
    add_rows(own_inputs, {"id": "pair"} | pair)
    recipe = make_recipe(own_inputs)
    plain = shard_corpus(recipe, tmp_path / "plain")
    expected = featurize(recipe, plain, SerialEngine())
    encoded_counts.clear()
    there = shard_corpus(recipe, tmp_path / "there")
    assert featurize(recipe, there, SerialEngine(), reuse=featurized[0]) == expected
    assert encoded_counts == []
    assert list_features(there) == list_features(plain)
    assert any("multi-" in path for path in list_features(there))


def test_frozen_statistics_move_with_the_features(inputs, new_corpus, encoded_counts):
    recipe = make_recipe(inputs, codec="compact")
    donor, there = new_corpus("donor"), new_corpus("there")
    digest, manifest = featurize(recipe, donor, SerialEngine())
    encoded_counts.clear()
    assert featurize(recipe, there, SerialEngine(), reuse=donor) == (digest, manifest)
    assert encoded_counts == []
    assert featurize(recipe, there, SerialEngine()) == (digest, manifest)


def test_statistics_of_ones_own_are_not_given_up(own_inputs, inputs, new_corpus, tmp_path):
    recipe = make_recipe(inputs, codec="compact")
    donor = new_corpus("donor")
    featurize(recipe, donor, SerialEngine())
    (own_inputs / "media/new.png").write_bytes(encode(draw(99, 44, 40), "PNG"))
    add_rows(own_inputs, picture_row("new.png", 99))
    other = make_recipe(own_inputs, codec="compact")
    there = shard_corpus(other, tmp_path / "there")
    featurize(other, there, SerialEngine())
    with pytest.raises(MismatchError, match=r"codec\.statistics"):
        featurize(other, there, SerialEngine(), reuse=donor)


def test_features_of_another_spec_are_refused_field_by_field(inputs, featurized, new_corpus, tmp_path):
    there = new_corpus("there")
    with pytest.raises(MismatchError, match=r"codec\.name is fp16 here and int8 wanted"):
        featurize(make_recipe(inputs, codec="int8"), there, SerialEngine(), reuse=featurized[0])
    write_encoder(tmp_path / "other", seed=1)
    values = recipe_values(inputs)
    values["encoder"]["model"] = str(tmp_path / "other")
    with pytest.raises(MismatchError, match=r"encoder\.weights_sha256 is \w+ here and \w+ wanted"):
        featurize(build(values, Recipe, "r"), there, SerialEngine(), reuse=featurized[0])
    with pytest.raises(MismatchError, match="holds no features to reuse"):
        featurize(make_recipe(inputs), there, SerialEngine(), reuse=new_corpus("empty"))


def test_a_damaged_donor_spoils_nothing(recipe, featurized, new_corpus, tmp_path):
    shutil.copytree(featurized[0].url, tmp_path / "donor")
    donor, there = LocalStorage(tmp_path / "donor"), new_corpus("there")
    entry = featurized[2].features[featurized[1]].shards[0]
    path = donor.local_path(entry.tar.path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptError, match="is damaged"):
        featurize(recipe, there, SerialEngine(), reuse=donor)
    assert not [name for name in list_features(there) if entry.name in name]


def test_media_are_told_apart_by_their_whole_digest(featurized):
    storage, digest, manifest = featurized
    spec = read_spec(storage, manifest.features[digest])
    (donor,) = find_own_donor(storage, spec)
    stored = StoredFeatures(donor, spec)
    samples = SampleShard(storage, manifest.shards[0])
    key = samples.list_keys()[0]
    item = samples.read_facts(key)
    modality = Modality(item.modality)
    assert stored.holds(samples, key, modality)
    assert stored.read(item).num_views == 5
    sha256 = item.media[0].sha256[:-1] + "x"
    item.media[0] = type(item.media[0])(
        **{name: getattr(item.media[0], name) for name in item.media[0].__struct_fields__}
        | {"sha256": sha256}
    )
    with pytest.raises(CorruptError, match="of other media"):
        stored.read(item)
    assert not stored.holds(samples, "f" * 32, modality)
