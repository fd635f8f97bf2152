"""Items that cannot be encoded: rejected by name under the spec, left out of training, others untouched."""

import json
import shutil

import pytest
import torch
from encodable_inputs import make_broken_gif, make_clip, make_pictures, make_recipe, picture_row
from watched_storage import read_objects

from infra.storage import LocalStorage
from operators.clip import EncoderOutput, VisionEncoder
from operators.preprocess import normalize_views
from operators.render import render_medium
from pipelines.commit import load_manifest
from pipelines.engine import SerialEngine
from pipelines.featurize.flow import featurize
from pipelines.featurize.spec import open_encoder, render_policy
from pipelines.ingest.flow import ingest
from pipelines.shard.flow import shard
from pipelines.stream.reader import FeatureReader
from pipelines.stream.stream import FeatureStream
from schemas.digest import sha256_hex
from schemas.errors import NotFoundError
from schemas.record import MediumKind
from schemas.stream import DataConfig

ONE_BY_ONE = DataConfig(batch=1, micro_batch=1)


def key_of(data):
    return sha256_hex(data)[:32]


def train_on(storage, manifest, digest):
    """The stream of one epoch, and the ids of its examples."""
    stream = FeatureStream(storage, manifest, digest, ONE_BY_ONE, seed=0, num_epochs=1)
    return stream, [example.example_id for step in stream for batch in step for example in batch]


@pytest.fixture
def broken(inputs, tmp_path):
    """A corpus with a picture whose header is right and whose pixels are not, used by two records."""
    folder = tmp_path / "inputs"
    shutil.copytree(inputs, folder)
    (folder / "media/broken.gif").write_bytes(make_broken_gif())
    rows = json.loads((folder / "llava.json").read_text())
    rows += [picture_row("broken.gif", number) for number in (100, 101)]
    (folder / "llava.json").write_text(json.dumps(rows))
    storage = LocalStorage(tmp_path / "corpus")
    recipe = make_recipe(folder)
    ingested = ingest(recipe, storage, SerialEngine()).manifest
    shard(recipe, storage, SerialEngine())
    return recipe, storage, ingested


def test_a_medium_that_does_not_decode_is_a_reject_of_the_spec(broken, featurized):
    recipe, storage, ingested = broken
    assert sum(source.rejected for source in ingested.sources) == 0
    assert ingested.num_media == 10
    digest, manifest = featurize(recipe, storage, SerialEngine())
    features = manifest.features[digest]
    (reject,) = features.rejects
    key = key_of(make_broken_gif())
    assert (reject.key, reject.code) == (key, "damaged_image")
    assert "gif of" in reject.message
    assert features.num_items == 9
    assert load_manifest(storage) == manifest

    reader = FeatureReader(storage, manifest, digest)
    with pytest.raises(NotFoundError, match=key):
        reader.find_shard(key)
    healthy = FeatureReader(featurized[0], featurized[2], featurized[1])
    for data in make_pictures().values():
        (here,), (there,) = reader.read_item(key_of(data)), healthy.read_item(key_of(data))
        assert torch.equal(here.patches, there.patches)


def test_training_leaves_rejects_out_and_counts_them(broken):
    recipe, storage, _ = broken
    digest, manifest = featurize(recipe, storage, SerialEngine())
    num_examples = sum(source.written for source in manifest.sources)
    stream, ids = train_on(storage, manifest, digest)
    assert stream.catalog.num_rejected == 2
    assert len(ids) == len(set(ids)) == num_examples - 2 == 18


def test_rejects_are_remembered_and_not_tried_again(broken, encoded_counts):
    recipe, storage, _ = broken
    first = featurize(recipe, storage, SerialEngine())
    before = read_objects(storage.url)
    encoded_counts.clear()
    assert featurize(recipe, storage, SerialEngine()) == first
    assert read_objects(storage.url) == before
    assert encoded_counts == []


def test_a_leaf_of_rejects_alone_is_an_empty_shard(inputs, tmp_path):
    folder = tmp_path / "inputs"
    shutil.copytree(inputs, folder)
    (folder / "media/broken.gif").write_bytes(make_broken_gif())
    (folder / "llava.json").write_text(json.dumps([picture_row("broken.gif", 0)]))
    storage, recipe = LocalStorage(tmp_path / "corpus"), make_recipe(folder)
    ingest(recipe, storage, SerialEngine())
    shard(recipe, storage, SerialEngine())
    digest, manifest = featurize(recipe, storage, SerialEngine())
    features = manifest.features[digest]
    assert (features.num_items, features.num_views, len(features.rejects)) == (1, 3, 1)
    assert [entry.tar.num_rows for entry in features.shards] == [0, 1]
    _, ids = train_on(storage, manifest, digest)
    assert len(ids) == 1


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("patches", float("nan")),
        ("patches", 7e4),
        ("class_row", float("-inf")),
        ("class_row", float("nan")),
        ("class_row", 7e4),
    ],
)
def test_features_that_are_not_finite_cost_their_item_alone(
    recipe, featurized, new_corpus, monkeypatch, part, value
):
    victim = make_pictures()["square.webp"]
    whole = normalize_whole(victim, recipe)
    encode_fixed = VisionEncoder.encode_fixed
    num_spoiled = 0

    def spoil(self, pixels, batch_size):
        nonlocal num_spoiled
        output = encode_fixed(self, pixels, batch_size)
        rows = {"patches": output.patches.clone(), "class_row": output.class_row.clone()}
        for index, view in enumerate(pixels):
            if torch.equal(view, whole):
                rows[part][index, ..., 1] = value
                num_spoiled += 1
        return EncoderOutput(**rows)

    monkeypatch.setattr(VisionEncoder, "encode_fixed", spoil)
    storage = new_corpus("spoiled")
    digest, manifest = featurize(recipe, storage, SerialEngine())
    assert num_spoiled == 1
    features = manifest.features[digest]
    assert [(reject.key, reject.code) for reject in features.rejects] == [(key_of(victim), "not_finite")]
    assert (features.num_items, features.num_views) == (8, 38)
    reader = FeatureReader(storage, manifest, digest)
    healthy = FeatureReader(featurized[0], featurized[2], featurized[1])
    others = [data for data in make_pictures().values() if data != victim]
    for data in [*others, make_clip()]:
        (here,), (there,) = reader.read_item(key_of(data)), healthy.read_item(key_of(data))
        assert torch.equal(here.patches, there.patches)
    with pytest.raises(NotFoundError, match=key_of(victim)):
        reader.find_shard(key_of(victim))


def normalize_whole(data, recipe):
    """The encoder's input for the whole picture."""
    policy = render_policy(recipe.views, open_encoder(recipe.encoder))
    views = render_medium(data, MediumKind.IMAGE, policy).views
    return torch.as_tensor(normalize_views(views, policy.processor))[-1]
