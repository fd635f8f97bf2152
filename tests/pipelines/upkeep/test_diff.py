"""Differences of two corpora, against sets of plain rows; whatever the tables are cut by."""

import io
import json
import shutil
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from encodable_inputs import draw, encode, make_recipe, picture_row
from watched_storage import WatchedStorage

from infra.storage import LocalStorage
from pipelines.commit import load_manifest, publish_manifest, put_object, read_object
from pipelines.engine import SerialEngine
from pipelines.ingest.flow import ingest
from pipelines.ingest.tables import name_bucket
from pipelines.shard.flow import shard
from pipelines.upkeep.diff import Side, diff
from pipelines.upkeep.inventory import read_manifest, resolve_digest
from schemas.errors import ConfigError


def side(storage):
    return Side(storage, load_manifest(storage))


def rows_of(storage, entries):
    frames = [pl.read_parquet(io.BytesIO(read_object(storage, entry))) for entry in entries]
    return [row for frame in frames for row in frame.iter_rows(named=True)]


def compare_plainly(before, after, name):
    """The slow way: dicts of rows by name."""
    old, new = ({name(row): row for row in rows} for rows in (before, after))
    found = Counter()
    found["added"] = len(new.keys() - old.keys())
    found["removed"] = len(old.keys() - new.keys())
    found["changed"] = sum(old[key] != new[key] for key in old.keys() & new.keys())
    return +found


def items_of(rows):
    found = {}
    for row in rows:
        found.setdefault(row["item_key"], {"item_key": row["item_key"], "ids": set()})["ids"].add(
            row["example_id"]
        )
    return list(found.values())


def expect_difference(one, other):
    """What `diff` must find in the tables, counted by rows."""
    examples = [rows_of(one_side.storage, one_side.manifest.examples) for one_side in (one, other)]
    media = [rows_of(one_side.storage, one_side.manifest.media) for one_side in (one, other)]
    return {
        "examples": compare_plainly(*examples, lambda row: row["example_id"]),
        "items": compare_plainly(*map(items_of, examples), lambda row: row["item_key"]),
        "media": compare_plainly(*media, lambda row: (row["item_key"], row["position"])),
    }


def counts_of(found):
    return {name: section.counts for name, section in found.sections.items()}


@pytest.fixture
def changed(corpus, inputs, tmp_path):
    """The corpus of inputs that were changed: a new picture, one gone, a text mended, a row moved."""
    folder = tmp_path / "changed"
    shutil.copytree(inputs, folder)
    rows = json.loads((folder / "llava.json").read_text())
    (folder / "media/new.png").write_bytes(encode(draw(99, 20, 20), "PNG"))
    rows = [row for row in rows if row.get("image") != "plain.bmp"]
    rows[1]["conversations"][1]["value"] = "mended"
    rows.append(picture_row("new.png", 99))
    (folder / "llava.json").write_text(json.dumps(rows))
    storage = LocalStorage(tmp_path / "there")
    ingest(make_recipe(folder), storage, SerialEngine())
    shard(make_recipe(folder), storage, SerialEngine())
    return storage


def test_a_corpus_does_not_differ_from_itself_and_nothing_is_read(corpus, copy_corpus):
    there = WatchedStorage(copy_corpus("there").url)
    found = diff(side(corpus), side(there))
    assert found.is_empty
    assert [path for path in there.paths_read if path.endswith(".parquet")] == []


def test_what_was_added_removed_and_changed_is_counted_and_named(corpus, changed):
    one, other = side(corpus), side(changed)
    found = diff(one, other)
    assert not found.is_empty
    expected = expect_difference(one, other)
    assert {name: counts_of(found)[name] for name in expected} == expected
    assert expected["items"] == {"added": 1, "removed": 1, "changed": 1}
    assert expected["examples"]["changed"] > 5
    added = {row["item_key"] for row in rows_of(changed, other.manifest.examples)}
    added -= {row["item_key"] for row in rows_of(corpus, one.manifest.examples)}
    assert found.sections["items"].first["added"] == sorted(added)
    (spec,) = one.manifest.features
    encoded = [shard.name for shard in one.manifest.features[spec].shards]
    assert found.sections[f"features of {spec}"].counts == {"removed": len(encoded)}
    assert found.fields["source pictures: written"] == (17, 16)


def test_the_other_way_round_is_the_opposite(corpus, changed):
    there, back = diff(side(corpus), side(changed)), diff(side(changed), side(corpus))
    swapped = {"added": "removed", "removed": "added", "changed": "changed"}
    assert counts_of(back) == {
        name: {swapped[change]: number for change, number in counts.items()}
        for name, counts in counts_of(there).items()
    }
    assert back.fields == {name: (after, before) for name, (before, after) in there.fields.items()}


def cut(storage, bits):
    """Cut the tables by so many bits."""
    manifest = load_manifest(storage)
    tables = {"examples": manifest.examples, "media": manifest.media}
    written = {}
    for folder, entries in tables.items():
        frame = pl.concat([pl.read_parquet(io.BytesIO(read_object(storage, entry))) for entry in entries])
        written[folder] = []
        for bucket in range(1 << bits):
            prefix = name_bucket(bucket, bits)
            rows = frame.filter(
                pl.col("item_key").map_elements(
                    lambda key, prefix=prefix: f"{int(key, 16):0128b}".startswith(prefix.strip("al")),
                    return_dtype=pl.Boolean,
                )
            )
            if len(rows):
                file = io.BytesIO()
                rows.write_parquet(file)
                written[folder].append(
                    put_object(storage, folder, prefix, "parquet", file.getvalue(), len(rows))
                )
    publish_manifest(storage, manifest.model_copy(update=written), manifest)


@pytest.mark.parametrize(("bits", "other_bits"), [(0, 3), (3, 0), (2, 4), (3, 3)])
def test_tables_that_are_cut_otherwise_are_compared_by_their_rows(
    corpus, copy_corpus, changed, bits, other_bits
):
    expected = counts_of(diff(side(corpus), side(changed)))
    same = copy_corpus("same")
    for storage, num_bits in ((corpus, bits), (changed, other_bits), (same, other_bits)):
        cut(storage, num_bits)
    assert counts_of(diff(side(corpus), side(changed))) == expected
    assert diff(side(corpus), side(same)).is_empty


def test_two_manifests_of_a_corpus_are_compared(corpus):
    manifest = load_manifest(corpus)
    digests = {Path(path).stem for path in corpus.list("manifests")}
    for digest in digests:
        assert resolve_digest(corpus, digest[:12]) == digest
    older = [read_manifest(corpus, digest) for digest in digests - {manifest.digest}]
    (sharded,) = [one for one in older if one.shards]
    found = diff(Side(corpus, sharded), side(corpus))
    (spec,) = manifest.features
    assert {name: counts for name, counts in counts_of(found).items() if counts} == {
        f"features of {spec}": {"added": len(manifest.features[spec].shards)}
    }
    assert all(name.startswith("features of") for name in found.fields)
    with pytest.raises(ConfigError, match="0 manifests have a digest that begins with '0000'"):
        resolve_digest(corpus, "0000")
