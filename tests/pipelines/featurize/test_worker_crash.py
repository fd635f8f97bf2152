"""An item that kills the process that encodes it is a reject; all others are encoded as ever."""

import functools

import pytest
from deadly_items import DeadlyItemWorker
from encodable_inputs import make_pictures
from watched_storage import read_objects

from pipelines.engine import Divisible
from pipelines.featurize.flow import featurize
from pipelines.featurize.spec import describe_spec, open_encoder
from pipelines.featurize.units import FeatureUnits
from pipelines.featurize.write import EncodeWorker
from pipelines.process_engine import ProcessesEngine
from pipelines.shard.tables import tables_of
from pipelines.stream.reader import FeatureReader
from schemas.digest import sha256_hex

DEADLY = sha256_hex(make_pictures()["square.webp"])
OTHERS = [sha256_hex(data)[:32] for data in make_pictures().values() if sha256_hex(data) != DEADLY]


def test_a_unit_is_divided_into_its_items_and_does_without_some(recipe, new_corpus, featurized):
    _, _, manifest = featurized
    storage = new_corpus("divided")
    spec = describe_spec(recipe.views, recipe.encoder, recipe.codec, open_encoder(recipe.encoder))
    worker = EncodeWorker(storage, recipe, spec, tables_of(manifest))
    assert isinstance(worker, Divisible)
    encode = worker.build()
    unit = max(FeatureUnits(manifest), key=lambda unit: unit.leaf.num_items)
    parts = worker.divide(unit)
    assert len(parts) == unit.leaf.num_items >= 2

    before = read_objects(storage.url)
    assert [encode(part).record.objects for part in parts] == [[]] * len(parts)
    assert read_objects(storage.url) == before

    record = encode(worker.exclude(unit, parts[:1])).record
    assert [(reject.key, reject.code) for reject in record.rejects] == [(parts[0].only_key, "worker_crash")]
    assert record.counts["items"] == unit.leaf.num_items - 1
    assert read_objects(storage.url).keys() - before.keys() > {entry.path for entry in record.objects}


@pytest.mark.slow
def test_an_item_that_kills_is_rejected_and_no_other(recipe, new_corpus, featurized, monkeypatch):
    worker = functools.partial(DeadlyItemWorker, deadly_sha256=DEADLY)
    monkeypatch.setattr("pipelines.featurize.flow.EncodeWorker", worker)
    storage = new_corpus("deadly")
    with ProcessesEngine(2) as engine:
        digest, manifest = featurize(recipe, storage, engine)
    (reject,) = manifest.features[digest].rejects
    assert (reject.key, reject.code) == (DEADLY[:32], "worker_crash")
    healthy_storage, healthy_digest, healthy = featurized
    assert manifest.features[digest].num_items == healthy.features[healthy_digest].num_items - 1
    here = FeatureReader(storage, manifest, digest)
    there = FeatureReader(healthy_storage, healthy, healthy_digest)
    assert len(OTHERS) == 7
    for key in OTHERS:
        (mine,), (theirs,) = here.read_item(key), there.read_item(key)
        assert mine.patches.equal(theirs.patches)
