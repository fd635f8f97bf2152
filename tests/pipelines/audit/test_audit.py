"""Audits of small caches: what was recomputed by hand, caches that are not what they claim, refusals."""

import shutil

import pytest
import torch
from encodable_inputs import make_recipe, write_encoder, write_inputs

from infra.storage import LocalStorage
from operators.clip import EncoderOutput, VisionEncoder
from operators.fidelity import measure_fidelity
from pipelines.audit.flow import AuditPlan, audit, find_audit
from pipelines.commit import load_manifest, parse_stored
from pipelines.engine import SerialEngine
from pipelines.featurize.flow import featurize
from pipelines.featurize.single import MediumEncoder
from pipelines.ingest.flow import ingest
from pipelines.shard.flow import shard
from pipelines.stream.fresh import FreshFeatures
from pipelines.stream.reader import FeatureReader
from schemas.digest import sha256_hex
from schemas.errors import ConfigError, CorruptError, MismatchError, NotFoundError
from schemas.fidelity import AuditRecord, FidelityFloor

NUM_ITEMS = 9


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def template(inputs, tmp_path_factory):
    """A corpus with two caches: plain fp16 and int8. Nobody changes it."""
    storage = LocalStorage(tmp_path_factory.mktemp("corpus"))
    recipe = make_recipe(inputs)
    ingest(recipe, storage, SerialEngine())
    shard(recipe, storage, SerialEngine())
    exact, _ = featurize(recipe, storage, SerialEngine())
    small, _ = featurize(make_recipe(inputs, codec="int8"), storage, SerialEngine())
    return storage, exact, small


@pytest.fixture
def corpus(template, tmp_path):
    """A copy that a test may change."""
    storage, exact, small = template
    shutil.copytree(storage.url, tmp_path / "corpus")
    return LocalStorage(tmp_path / "corpus"), exact, small


def run_audit(storage, spec, **changes):
    return audit(storage, load_manifest(storage), AuditPlan(spec=spec, **changes))


def open_encoder(storage, spec):
    manifest = load_manifest(storage)
    return MediumEncoder(FeatureReader(storage, manifest, spec).spec, manifest.features[spec].encoder)


def test_fp16_features_are_those_that_the_encoder_gives(corpus):
    storage, exact, _ = corpus
    path, record = run_audit(storage, exact)
    assert len(record.views) == NUM_ITEMS
    assert record.shortfalls == []
    assert record.fidelity.worst_raw_cosine > 1 - 1e-6
    assert 0 < record.fidelity.worst_relative_error < 2**-10
    manifest = load_manifest(storage)
    assert (record.manifest_sha256, record.spec_sha256[:16]) == (manifest.digest, exact)
    data = storage.read_bytes(path)
    assert path == f"features/{exact}/audits/{sha256_hex(data)}.json"
    assert parse_stored(data, AuditRecord, path) == record


def test_the_numbers_are_those_of_the_views_named(corpus):
    storage, _, small = corpus
    manifest = load_manifest(storage)
    _, record = run_audit(storage, small, num_views=5, seed=3)
    assert len({name.partition("/")[0] for name in record.views}) == 5
    reader = FeatureReader(storage, manifest, small)
    fresh = FreshFeatures(storage, manifest, open_encoder(storage, small))
    wanted, found = [], []
    for name in record.views:
        key, view = name.split("/")
        shard_name = reader.find_shard(key)
        stored = torch.cat([medium.patches.flatten(0, 1) for medium in reader.read_item(key)])
        (medium,) = fresh.compute_item(shard_name, key)
        found.append(stored[int(view)])
        wanted.append(medium.patches.flatten(0, 1)[int(view)])
    by_hand = measure_fidelity(torch.stack(wanted), torch.stack(found))
    assert by_hand.worst_raw_cosine == pytest.approx(record.fidelity.worst_raw_cosine, abs=1e-6)
    assert by_hand.channel_nrmse == pytest.approx(record.fidelity.channel_nrmse, rel=0.02)
    assert record.fidelity.worst_raw_cosine < 1 - 1e-8


def test_recomputed_items_equal_an_exact_cache_bit_for_bit(template):
    storage, exact, _ = template
    manifest = load_manifest(storage)
    reader = FeatureReader(storage, manifest, exact)
    fresh = FreshFeatures(storage, manifest, open_encoder(storage, exact))
    num_compared = 0
    for name in reader.list_shards():
        for key in reader.list_keys(name):
            pairs = zip(reader.read_item(key, shard=name), fresh.compute_item(name, key), strict=True)
            assert all(torch.equal(stored.patches, made.patches) for stored, made in pairs)
            num_compared += 1
    assert num_compared == NUM_ITEMS


def test_the_same_seed_finds_the_same_views_and_keeps_one_record(corpus):
    storage, exact, _ = corpus
    first = run_audit(storage, exact, num_views=4)
    assert run_audit(storage, exact, num_views=4) == first
    assert len(storage.list(f"features/{exact}/audits")) == 1
    views = {tuple(run_audit(storage, exact, num_views=4, seed=seed)[1].views) for seed in range(4)}
    assert len(views) > 1
    assert len(storage.list(f"features/{exact}/audits")) == 4


def test_a_kept_audit_is_found_for_the_same_question_only(corpus):
    storage, exact, small = corpus
    manifest = load_manifest(storage)
    floor = FidelityFloor(raw_cosine=0.5)
    plan = AuditPlan(spec=exact, num_views=3, floor=floor)
    assert find_audit(storage, manifest, plan) is None
    kept = audit(storage, manifest, plan)
    assert find_audit(storage, manifest, plan) == kept
    assert find_audit(storage, manifest, AuditPlan(spec=exact, num_views=4, floor=floor)) is None
    assert find_audit(storage, manifest, AuditPlan(spec=small, num_views=3, floor=floor)) is None
    other = AuditPlan(spec=exact, num_views=3, floor=FidelityFloor(raw_cosine=0.6))
    assert find_audit(storage, manifest, other) is None
    changed = manifest.model_copy(update={"name": "other"})
    assert find_audit(storage, changed, plan) is None


def test_features_of_a_broken_machine_fall_below_what_the_codec_promises(inputs, corpus, monkeypatch):
    storage, exact, _ = corpus
    shutil.rmtree(storage.local_path(f"features/{exact}"))
    shutil.rmtree(storage.local_path("commits"))
    encode = VisionEncoder.encode_fixed

    def encode_badly(self, pixels, batch_size):
        output = encode(self, pixels, batch_size)
        patches = output.patches.clone()
        patches[:, 3] = 0
        return EncoderOutput(patches, output.class_row)

    with monkeypatch.context() as patch:
        patch.setattr(VisionEncoder, "encode_fixed", encode_badly)
        digest, _ = featurize(make_recipe(inputs), storage, SerialEngine())
    assert digest == exact
    _, record = run_audit(storage, exact)
    assert [shortfall.split()[0] for shortfall in record.shortfalls] == [
        "raw_cosine",
        "normalized_cosine",
        "channel_nrmse",
    ]
    assert run_audit(storage, exact, floor=FidelityFloor())[1].shortfalls == []


def test_damage_is_told_with_shard_and_item(corpus):
    storage, exact, _ = corpus
    entry = load_manifest(storage).features[exact].shards[0].tar
    path = storage.local_path(entry.path)
    data = bytearray(path.read_bytes())
    for place in range(1024, len(data), 64):
        data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptError, match=r"shard image-\w+, item [0-9a-f]{32}"):
        run_audit(storage, exact)


def test_what_cannot_be_audited_is_refused(corpus, inputs, tmp_path):
    storage, exact, _ = corpus
    manifest = load_manifest(storage)
    with pytest.raises(NotFoundError, match="no features of spec ffff"):
        run_audit(storage, "ffff")
    with pytest.raises(ConfigError, match="--checkpoint"):
        run_audit(storage, exact, floor=FidelityFloor(loss_change=0.1))
    write_encoder(tmp_path / "other", seed=1)
    with pytest.raises(MismatchError, match="weights_sha256"):
        run_audit(storage, exact, encoder=str(tmp_path / "other"))
    without = manifest.model_copy(update={"shards": []})
    with pytest.raises(NotFoundError, match="onetoken shard"):
        audit(storage, without, AuditPlan(spec=exact))
    features = manifest.features[exact].model_copy(update={"shards": []})
    empty = manifest.model_copy(update={"features": {exact: features}})
    with pytest.raises(NotFoundError, match="nothing to audit"):
        audit(storage, empty, AuditPlan(spec=exact))
    with pytest.raises(NotFoundError, match="no checkpoint"):
        run_audit(storage, exact, checkpoint=tmp_path)
