"""Statistics of a corpus: of the views of lowest hash, taken once, and then frozen whatever is added."""

import hashlib
import json
import statistics as plain_statistics

import numpy as np
import pytest
import torch
from encodable_inputs import make_recipe
from hypothesis import given
from hypothesis import strategies as st
from watched_storage import read_objects

from operators.clip import VisionEncoder
from operators.fidelity import measure_fidelity
from pipelines.commit import load_manifest
from pipelines.engine import SerialEngine
from pipelines.featurize import statistics
from pipelines.featurize.flow import featurize
from pipelines.featurize.statistics import ChosenView, choose_views, keep_lowest, measure_statistics
from pipelines.ingest.tables import read_media
from pipelines.stream.reader import FeatureReader
from schemas.errors import ConfigError
from schemas.record import MediumKind

NUM_VIEWS = 8 * 5 + 3


def read_statistics(storage, digest):
    spec = json.loads(storage.read_bytes(f"features/{digest}/spec.json"))
    return spec["codec"]["statistics"]


def test_all_views_of_a_small_corpus_count(inputs, new_corpus, encoded_counts):
    storage = new_corpus("corpus")
    recipe = make_recipe(inputs, codec="compact")
    digest, manifest = featurize(recipe, storage, SerialEngine())
    found = read_statistics(storage, digest)
    assert found["num_views"] == NUM_VIEWS
    assert len(found["median"]) == len(found["spread"]) == 32
    assert sum(encoded_counts) == 2 * NUM_VIEWS
    spec = FeatureReader(storage, manifest, digest).spec
    assert (spec.codec.step, spec.codec.library is None) == (0.1, False)
    reader = FeatureReader(storage, manifest, digest)
    fp16, plain = featurize(make_recipe(inputs), storage, SerialEngine())
    assert set(plain.features) == {digest, fp16}
    exact = FeatureReader(storage, plain, fp16)
    keys = _keys(storage, manifest)
    assert len(keys) == 9
    for key in keys:
        (stored,), (wanted,) = reader.read_item(key), exact.read_item(key)
        fidelity = measure_fidelity(wanted.patches.flatten(0, 1), stored.patches.flatten(0, 1))
        assert 0.99 < fidelity.worst_normalized_cosine < 1


def test_they_are_frozen(inputs, new_corpus, encoded_counts, monkeypatch):
    storage = new_corpus("corpus")
    recipe = make_recipe(inputs, codec="compact")
    digest, _ = featurize(recipe, storage, SerialEngine())
    before = read_objects(storage.url)
    encoded_counts.clear()
    monkeypatch.setattr(statistics, "choose_views", _forbidden)
    again, _ = featurize(recipe, storage, SerialEngine())
    assert (again, encoded_counts) == (digest, [])
    assert read_objects(storage.url) == before
    batches = recipe.model_copy(update={"encoder": recipe.encoder.model_copy(update={"batch_size": 3})})
    assert featurize(batches, storage, SerialEngine())[0] == digest


def test_a_crash_after_they_were_taken_does_not_take_them_again(inputs, new_corpus, monkeypatch):
    storage = new_corpus("corpus")
    recipe = make_recipe(inputs, codec="compact")
    encode_fixed = VisionEncoder.encode_fixed
    calls = []

    def fail_late(self, pixels, batch_size):
        calls.append(len(pixels))
        if sum(calls) > NUM_VIEWS:
            raise KeyboardInterrupt
        return encode_fixed(self, pixels, batch_size)

    monkeypatch.setattr(VisionEncoder, "encode_fixed", fail_late)
    with pytest.raises(KeyboardInterrupt):
        featurize(recipe, storage, SerialEngine())
    monkeypatch.setattr(VisionEncoder, "encode_fixed", encode_fixed)
    monkeypatch.setattr(statistics, "choose_views", _forbidden)
    (spec_path,) = [path for path in read_objects(storage.url) if path.endswith("spec.json")]
    digest, _ = featurize(recipe, storage, SerialEngine())
    assert spec_path == f"features/{digest}/spec.json"


def test_another_step_is_another_cache_with_the_same_statistics(inputs, new_corpus):
    storage = new_corpus("corpus")
    small = make_recipe(inputs, codec={"name": "compact", "step": 0.2})
    one, _ = featurize(make_recipe(inputs, codec="compact"), storage, SerialEngine())
    other, manifest = featurize(small, storage, SerialEngine())
    assert set(manifest.features) == {one, other}
    assert read_statistics(storage, one) == read_statistics(storage, other)


def test_a_reduced_cache_takes_those_of_patches(inputs, new_corpus):
    storage = new_corpus("corpus")
    whole, _ = featurize(make_recipe(inputs, codec="compact"), storage, SerialEngine())
    recipe = make_recipe(inputs, codec="compact", reducer={"name": "average", "tokens": 4})
    reduced, manifest = featurize(recipe, storage, SerialEngine())
    assert set(manifest.features) == {whole, reduced}
    assert read_statistics(storage, reduced) == read_statistics(storage, whole)
    reader = FeatureReader(storage, manifest, reduced)
    counts = {
        count for key in _keys(storage, manifest) for item in reader.read_item(key) for count in item.counts
    }
    assert counts == {4, 5 * 4}, "of each view of a frame"


def test_the_views_of_lowest_hash_are_chosen(inputs, new_corpus):
    storage = new_corpus("corpus")
    manifest = load_manifest(storage)
    recipe = make_recipe(inputs)
    expected = sorted(
        (hashlib.sha256(bytes.fromhex(sha) + view.to_bytes(4, "little")).digest(), sha, view)
        for sha, num_views in _media(storage, manifest)
        for view in range(num_views)
    )
    assert len(expected) == NUM_VIEWS
    chosen = choose_views(storage, manifest, recipe.views, 10)
    assert sorted(one.hash for one in chosen) == [hashed for hashed, _, _ in expected[:10]]
    assert len(choose_views(storage, manifest, recipe.views)) == NUM_VIEWS


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3)), max_size=200), st.integers(1, 12))
def test_the_lowest_are_exact_however_often_a_medium_is_used(drawn, most):
    """A medium that many items use gives its hash many times, and takes no other's place."""
    views = [ChosenView(bytes([hashed]), leaf, "", 0, 0) for hashed, leaf in drawn]
    once = {one.hash: one for one in sorted(views, reverse=True)}
    assert keep_lowest(views, most) == sorted(once.values())[:most]


def test_views_of_media_used_many_times_do_not_crowd_out_others():
    often = [ChosenView(bytes([hashed]), leaf, "", 0, 0) for leaf in range(9) for hashed in range(4)]
    seldom = [ChosenView(bytes([hashed]), 0, "", 0, 0) for hashed in range(4, 8)]
    assert [one.hash[0] for one in keep_lowest([*often, *seldom], 8)] == list(range(8))


def test_median_and_spread_are_the_plain_ones():
    tokens = torch.randn(501, 70, generator=torch.Generator().manual_seed(1))
    found = measure_statistics(tokens, 3)
    for channel in (0, 63, 64, 69):
        values = sorted(tokens[:, channel].tolist())
        assert found.median[channel] == float(f"{plain_statistics.median_high(values):.4g}")
        assert found.spread[channel] == float(f"{np.float32(values[375]) - np.float32(values[125]):.4g}")


def test_codecs_that_do_not_exist_are_bad_configuration(inputs, new_corpus):
    with pytest.raises(ConfigError, match="codec: no codec 'zip'; known are compact, fp16, int8"):
        featurize(make_recipe(inputs, codec="zip"), new_corpus("corpus"), SerialEngine())
    with pytest.raises(ConfigError, match="codec: codec int8 has no quality step"):
        featurize(make_recipe(inputs, codec={"name": "int8", "step": 0.1}), new_corpus("b"), SerialEngine())


def _forbidden(*_):
    raise AssertionError("statistics were taken again")


def _media(storage, manifest):
    """Digest and number of views of every medium."""
    for entry in manifest.media:
        for row in read_media(storage, entry):
            yield row.facts.sha256, 5 if row.facts.kind is MediumKind.IMAGE else 3


def _keys(storage, manifest):
    return {row.item_key for entry in manifest.media for row in read_media(storage, entry)}
