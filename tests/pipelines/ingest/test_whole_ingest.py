"""The tables of random small corpora, row by row, against a program that ingests them the plain way."""

import json
from collections import Counter
from dataclasses import astuple
from functools import partial
from random import Random

import pytest
from few_media import talk, write_media
from naive_ingest import naive_ingest
from random_sources import write_source

from infra.storage import LocalStorage
from pipelines.engine import SerialEngine
from pipelines.ingest import read, scan, tables
from pipelines.ingest.flow import ingest
from pipelines.ingest.rows.ranges import plan_ranges
from pipelines.ingest.tables import read_examples, read_media, read_quarantine
from schemas.configuration import build
from schemas.recipe import Recipe


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """Media that all sources share."""
    return write_media(tmp_path_factory.mktemp("media"))


EXPECTED = (
    "ambiguous_file",
    "bad_json",
    "bad_type",
    "duplicate_record",
    "empty_answer",
    "empty_file",
    "empty_question",
    "missing_field",
    "missing_file",
    "not_an_object",
    "placeholder_mismatch",
    "placeholder_without_medium",
    "truncated_image",
    "unsafe_path",
    "wrong_kind",
    "found_by_stem",
    "placeholder_added",
    "image",
    "multi",
    "text",
    "video",
    "several tables",
    "shared media",
)


def rows_of(storage, entries, read):
    return [row for entry in entries for row in read(storage, entry)]


def as_tuple(row):
    """A row of the table of media in the order of its columns."""
    facts = row.facts
    size = (facts.num_bytes, facts.width_px, facts.height_px, facts.duration_s)
    where = (row.times_used, row.source, row.location)
    return (row.item_key, row.position, facts.sha256, facts.kind.value, facts.extension, *size, *where)


def check_tables(recipe, storage, manifest, naive):
    """Compare everything that a manifest leads to."""
    examples = rows_of(storage, manifest.examples, read_examples)
    assert [astuple(row) for row in examples] == naive.examples
    assert [as_tuple(row) for row in rows_of(storage, manifest.media, read_media)] == naive.media
    ranks = {config.name: rank for rank, config in enumerate(recipe.sources)}
    rejects = rows_of(storage, manifest.quarantine, read_quarantine)
    found = [(r.source, r.locator.file, r.locator.row, r.code, r.raw) for r in rejects]
    assert sorted(found, key=lambda row: (ranks[row[0]], *row[1:3])) == naive.rejects
    assert all(reject.message for reject in rejects)
    for source in manifest.sources:
        assert source.model_dump(mode="json") == naive.totals[source.name]
    assert [tuple(leaf.model_dump(mode="json").values()) for leaf in manifest.plan] == naive.plan
    assert (manifest.num_media, manifest.num_media_uses) == (len(naive.media), naive.num_media_uses)
    assert manifest.num_media_bytes == sum(row[5] for row in naive.media)


def draw_recipe(rng, folder, media):
    """A recipe over new files, and the names of these."""
    layouts = ["llava", *rng.sample(["llava", "sharegpt", "video_chatgpt", "onevision"], rng.randrange(3))]
    drawn = [write_source(rng, folder, f"s{n}", layout, media) for n, layout in enumerate(layouts)]
    values = {
        "name": "random",
        "sources": [entry for entry, _ in drawn],
        "views": {"video": {"fps": rng.choice((1, 0.5, 4)), "max_frames": 6}},
        "shards": {"max_bytes": rng.choice((1, 700, 1500)), "max_views": 12},
    }
    return build(values, Recipe, "random"), {entry["name"]: files for entry, files in drawn}


def test_random_corpora_come_out_as_the_plain_way_has_them(media, tmp_path, monkeypatch, far_engine):
    seen = Counter()
    for seed in range(12):
        rng = Random(seed)
        in_ranges = partial(plan_ranges, range_bytes=rng.choice((1 << 25, 1, 150, 400)))
        monkeypatch.setattr("pipelines.ingest.inputs.plan_ranges", in_ranges)
        monkeypatch.setattr(tables, "ROWS_PER_FILE", rng.choice((50_000, 2, 7)))
        monkeypatch.setattr(scan, "TYPICAL_RECORD_BYTES", rng.choice((1000, 10)))
        monkeypatch.setattr(read, "PART_BYTES", rng.choice((1 << 25, 40)))
        recipe, names = draw_recipe(rng, tmp_path / f"{seed}", media)
        naive = naive_ingest(recipe, names)
        storage = LocalStorage(tmp_path / f"{seed}/out")
        manifest = ingest(recipe, storage, rng.choice((SerialEngine(), far_engine))).manifest
        check_tables(recipe, storage, manifest, naive)
        again = ingest(recipe, storage, SerialEngine())
        assert again.manifest == manifest
        assert again.probed.num_read == 0
        seen.update(code for _, _, _, code, _ in naive.rejects)
        seen.update(row[6] for row in naive.examples)
        seen.update(kind for source in manifest.sources for kind in source.repairs)
        seen["several tables"] += len(manifest.examples) > 2
        seen["shared media"] += manifest.num_media_uses > manifest.num_media > 0
    assert {*EXPECTED} - {*+seen} == set()


@pytest.mark.parametrize("range_bytes", [1 << 25, 1])
def test_each_medium_of_an_item_stands_at_the_smallest_of_its_places(
    tmp_path, monkeypatch, media, range_bytes
):
    monkeypatch.setattr("pipelines.ingest.inputs.plan_ranges", partial(plan_ranges, range_bytes=range_bytes))
    pairs = [["a.jpg", "two.jpg"], ["same.jpg", "b.png"]]
    rows = [{"image": pair, "conversations": talk("<image><image>q", "a")} for pair in pairs]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows * 2))
    source = {"name": "s", "format": "llava", "annotations": str(path), "media_root": str(media)}
    recipe = build({"name": "pairs", "sources": [source]}, Recipe, "pairs")
    storage = LocalStorage(tmp_path / "out")
    manifest = ingest(recipe, storage, SerialEngine()).manifest
    assert [row.location for row in rows_of(storage, manifest.media, read_media)] == ["a.jpg", "b.png"]
    check_tables(recipe, storage, manifest, naive_ingest(recipe, {"s": [(path, path.name)]}))
