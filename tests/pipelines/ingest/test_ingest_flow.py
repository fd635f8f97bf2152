"""Ingest as a whole: every record accounted for, every fault named, the same bytes from every engine."""

import json
import os
from collections import Counter
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from watched_storage import read_objects

from infra.storage import LocalStorage
from pipelines.commit import load_manifest, read_object
from pipelines.engine import SerialEngine
from pipelines.ingest import flow, tables
from pipelines.ingest.flow import ingest
from pipelines.ingest.rows.ranges import plan_ranges
from pipelines.ingest.tables import read_examples, read_media, read_quarantine
from schemas.configuration import build
from schemas.corpus import ShardEntry
from schemas.digest import canonical_json, sha256_hex
from schemas.errors import ConfigError, CorruptError, FatalError
from schemas.medium import item_key_of_media, item_key_of_text
from schemas.recipe import Recipe
from schemas.record import Locator

TABLES = ("examples", "media", "quarantine")


def rows_of(storage, entries, read):
    return [row for entry in entries for row in read(storage, entry)]


def change(recipe, index, **fields):
    values = recipe.model_dump(mode="json")
    values["sources"][index] |= fields
    return build(values, Recipe, "changed")


def only(recipe, index, **fields):
    changed = change(recipe, index, **fields)
    return changed.model_copy(update={"sources": [changed.sources[index]]})


@pytest.fixture
def storage(tmp_path):
    return LocalStorage(tmp_path / "corpus")


def test_the_tiny_corpus_comes_out_as_it_was_planted(tiny_recipe, storage):
    manifest = ingest(tiny_recipe, storage, SerialEngine()).manifest
    mix, qa, one = manifest.sources
    assert (mix.read, mix.taken, mix.written, mix.rejected) == (26, 26, 20, 6)
    assert mix.rejects == {
        "empty_answer": 1,
        "missing_file": 1,
        "not_an_object": 1,
        "truncated_image": 1,
        "unsafe_path": 1,
        "wrong_kind": 1,
    }
    assert mix.repairs == {"found_by_stem": 1, "placeholder_added": 1}
    assert (qa.read, qa.written, qa.rejects) == (5, 4, {"empty_file": 1})
    assert qa.repairs == {"leaked_label_removed": 4}
    assert (one.read, one.written, one.rejected) == (5, 5, 0)
    # 6 pictures, 2 renamed ones, 2 clips, 3 embedded; the fourth embedded picture is one of the six
    assert manifest.num_media == 13
    assert manifest.num_media_uses == 14 + 2 + 4 + 4
    assert load_manifest(storage) == manifest


def test_examples_are_keyed_by_content_and_sorted(tiny_recipe, storage):
    manifest = ingest(tiny_recipe, storage, SerialEngine()).manifest
    examples = rows_of(storage, manifest.examples, read_examples)
    assert [(e.item_key, e.example_id) for e in examples] == sorted(
        (e.item_key, e.example_id) for e in examples
    )
    assert len({example.example_id for example in examples}) == len(examples) == 29
    media = rows_of(storage, manifest.media, read_media)
    uses = Counter(example.item_key for example in examples)
    by_key = {item_key_of_media((row.facts.sha256,)): row for row in media}
    assert len(by_key) == 13
    for example in examples:
        if example.modality == "text":
            assert example.item_key == item_key_of_text(sha256_hex(example.conversation))
        else:
            assert by_key[example.item_key].facts.kind == example.modality
            assert by_key[example.item_key].times_used == uses[example.item_key]
        turns = json.loads(example.conversation)
        assert canonical_json(turns) == example.conversation
        assert [role for role, _ in turns] == ["human", "gpt"] * (len(turns) // 2)
        assert example.num_chars == sum(len(text) for _, text in turns)


def test_media_are_what_the_files_hold(tiny_recipe, tiny_folder, storage):
    manifest = ingest(tiny_recipe, storage, SerialEngine()).manifest
    media = rows_of(storage, manifest.media, read_media)
    assert [row.facts.sha256 for row in media] == sorted(row.facts.sha256 for row in media)
    checked = 0
    roots = {"mix": tiny_folder / "media", "qa": tiny_folder / "media/clips"}
    for row in media:
        if row.source in roots:
            data = (roots[row.source] / row.location).read_bytes()
            assert (row.facts.sha256, row.facts.num_bytes) == (sha256_hex(data), len(data))
            checked += 1
    assert checked == 10
    extensions = {row.location: row.facts.extension for row in media}
    assert extensions["pictures/gif.jpg"] == extensions["pictures/renamed.gif"] == "gif"
    assert {row.location for row in media if row.source == "one"} == {f"one.parquet#{n}" for n in range(3)}
    clip = next(row for row in media if row.location == "v_0.mp4")
    assert (clip.facts.width_px, clip.facts.height_px) == (32, 32)
    assert clip.facts.duration_s == pytest.approx(2.5)


def test_records_about_unwanted_media_are_rejected(tiny_recipe, tiny_folder, storage, tmp_path):
    placeholder = sha256_hex((tiny_folder / "media/pictures/0.jpg").read_bytes())
    recipe = tiny_recipe
    for index in (0, 2):  # one names it by a path, the other holds its bytes
        recipe = change(recipe, index, reject_media=[placeholder])
    before = ingest(tiny_recipe, LocalStorage(tmp_path / "before"), SerialEngine()).manifest
    manifest = ingest(recipe, storage, SerialEngine()).manifest
    (mix, qa, one), (mix_before, qa_before, one_before) = manifest.sources, before.sources
    assert mix.rejects == mix_before.rejects | {"unwanted_medium": 4}
    assert one.rejects == {"unwanted_medium": 1}
    assert (mix.written, one.written) == (mix_before.written - 4, one_before.written - 1)
    assert qa == qa_before
    media = rows_of(storage, manifest.media, read_media)
    assert manifest.num_media == before.num_media - 1 == len(media)
    assert placeholder not in {row.facts.sha256 for row in media}
    message = {reject.message for reject in rows_of(storage, manifest.quarantine, read_quarantine)
               if reject.code == "unwanted_medium" and reject.source == "mix"}  # fmt: skip
    assert message == {f"'pictures/0.jpg' is {placeholder}, which the recipe lists under reject_media"}


def test_rejects_keep_where_they_stood_and_what_they_were(tiny_recipe, tiny_folder, storage):
    manifest = ingest(tiny_recipe, storage, SerialEngine()).manifest
    rejects = rows_of(storage, manifest.quarantine, read_quarantine)
    published = json.loads((tiny_folder / "llava.json").read_text())
    mine = [reject for reject in rejects if reject.source == "mix"]
    assert [json.loads(reject.raw) for reject in mine] == [published[reject.locator.row] for reject in mine]
    assert {reject.locator.file for reject in mine} == {"llava.json"}
    assert [reject.locator.row for reject in mine] == sorted(reject.locator.row for reject in mine)
    assert all(reject.message for reject in rejects)


def test_any_engine_gives_the_same_bytes(tiny_recipe, tmp_path, far_engine, monkeypatch):
    monkeypatch.setattr("pipelines.ingest.inputs.plan_ranges", partial(plan_ranges, range_bytes=700))
    monkeypatch.setattr(tables, "ROWS_PER_FILE", 10)
    here, there = LocalStorage(tmp_path / "here"), LocalStorage(tmp_path / "there")
    ingest(tiny_recipe, here, SerialEngine())
    ingest(tiny_recipe, there, far_engine)
    assert read_objects(here.url) == read_objects(there.url)
    kinds = Counter(path.partition("/")[0] for path in read_objects(here.url))
    assert kinds["examples"] == kinds["media"] == 4
    assert kinds["quarantine"] > 2
    assert set(kinds) == {*TABLES, "probes", "recipes", "manifests", "corpus.json"}


def test_large_tables_are_cut_by_leading_bits(tiny_recipe, storage, monkeypatch):
    whole = ingest(tiny_recipe, storage, SerialEngine()).manifest
    monkeypatch.setattr(tables, "ROWS_PER_FILE", 10)
    cut = ingest(tiny_recipe, storage, SerialEngine()).manifest
    for before, after, read, key in (
        (whole.examples, cut.examples, read_examples, lambda row: row.item_key),
        (whole.media, cut.media, read_media, lambda row: row.item_key),
    ):
        assert rows_of(storage, before, read) == rows_of(storage, after, read)
        assert len(after) > 3
        for entry in after:
            name = entry.path.rpartition("/")[2].partition("-")[0]
            assert {f"{int(key(row), 16):0128b}"[:2] for row in read(storage, entry)} == {name}


def test_identical_records_are_kept_or_rejected_as_the_recipe_says(tiny_recipe, storage):
    recipe = only(tiny_recipe, 0, deduplicate=True)
    (totals,) = ingest(recipe, storage, SerialEngine()).manifest.sources
    assert totals.rejects["duplicate_record"] == 3
    assert totals.written == 17


@pytest.mark.parametrize(("take", "taken"), [("first:5", 5), ("last:20%", 6), ("random:7", 7)])
def test_rows_that_are_not_taken_are_read_and_left(tiny_recipe, storage, take, taken):
    (totals,) = ingest(only(tiny_recipe, 0, take=take), storage, SerialEngine()).manifest.sources
    assert totals.read == 26
    assert totals.taken == taken == totals.written + totals.rejected


def test_annotations_may_be_patterns_and_lists(tiny_recipe, tiny_folder, storage):
    (tiny_folder / "parts").mkdir()
    for part in ("b", "a"):
        row = {"id": part, "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": part}]}
        (tiny_folder / f"parts/{part}.jsonl").write_text(json.dumps(row))
    recipe = only(tiny_recipe, 0, annotations=["parts/*.jsonl", "parts/a.jsonl"], media_root=None)
    manifest = ingest(recipe, storage, SerialEngine()).manifest
    found = {e.record_file: e.record_id for e in rows_of(storage, manifest.examples, read_examples)}
    assert found == {"a.jsonl": "a", "b.jsonl": "b"}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"annotations": "gone.json"}, "no annotation file gone.json"),
        ({"annotations": "gone/*.json"}, "no annotation file"),
        ({"media_root": "gone"}, "media_root gone is no folder"),
        ({"media_root": None}, "give the source a media_root"),
    ],
)
def test_what_the_recipe_gets_wrong_is_said_before_anything_is_written(tiny_recipe, storage, fields, words):
    with pytest.raises(ConfigError, match=words.replace(".", r"\.")):
        ingest(only(tiny_recipe, 0, **fields), storage, SerialEngine())
    assert read_objects(storage.url) == {}


def test_a_cut_annotation_file_is_fatal_and_publishes_nothing(tiny_recipe, tiny_folder, storage):
    whole = (tiny_folder / "llava.json").read_bytes()
    (tiny_folder / "llava.json").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptError, match=r"llava\.json: row \d+, byte \d+"):
        ingest(tiny_recipe, storage, SerialEngine())
    assert read_objects(storage.url) == {}


def test_later_stages_are_kept_exactly_while_examples_and_media_are_the_same(
    tiny_recipe, tiny_folder, storage
):
    first = ingest(tiny_recipe, storage, SerialEngine()).manifest
    entry = first.examples[0]
    sharded = first.model_copy(update={"shards": [ShardEntry(name="x", tar=entry, index=entry)]})
    flow.publish_manifest(storage, sharded, derived_from=first)
    assert ingest(tiny_recipe, storage, SerialEngine()).manifest == sharded
    (tiny_folder / "media/pictures/5.jpg").unlink()
    assert ingest(tiny_recipe, storage, SerialEngine()).manifest.shards == []


def test_a_record_that_got_lost_stops_the_run(tiny_recipe, storage, monkeypatch):
    real = flow.group_items

    def lose_one(*arguments):
        groups = real(*arguments)
        next(iter(groups[0].sources.values())).written -= 1
        return groups

    monkeypatch.setattr(flow, "group_items", lose_one)
    with pytest.raises(FatalError, match="fault of the program"):
        ingest(tiny_recipe, storage, SerialEngine())
    assert not {"corpus.json", "manifests"} & {path.partition("/")[0] for path in read_objects(storage.url)}


texts = st.sampled_from(["<image>\nq", "q", "", "<image>", "<video>\nq", "a <image> b", 7])
garbage = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
records = st.fixed_dictionaries(
    {
        "conversations": st.lists(
            st.fixed_dictionaries({"from": st.sampled_from(["human", "gpt"]), "value": texts}), max_size=3
        )
        | st.tuples(texts, texts).map(
            lambda pair: [{"from": "human", "value": pair[0]}, {"from": "gpt", "value": pair[1]}]
        )
    },
    optional={
        "id": garbage,
        "image": st.sampled_from(
            ["pictures/0.jpg", "pictures/1.jpg", "pictures/gone.jpg", "../outside.jpg", "clips/v_0.mp4", None]
        )
        | garbage,
    },
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(records | garbage, max_size=12), deduplicate=st.booleans(), take=st.integers(0, 12))
def test_read_is_written_plus_rejected_plus_not_taken(
    tiny_recipe, tiny_folder, tmp_path_factory, rows, deduplicate, take
):
    (tiny_folder / "garbage.json").write_text(json.dumps(rows))
    recipe = only(tiny_recipe, 0, annotations="garbage.json", deduplicate=deduplicate, take=f"last:{take}")
    storage = LocalStorage(tmp_path_factory.mktemp("garbage"))
    manifest = ingest(recipe, storage, SerialEngine()).manifest
    (totals,) = manifest.sources
    examples = rows_of(storage, manifest.examples, read_examples)
    rejects = rows_of(storage, manifest.quarantine, read_quarantine)
    assert totals.read == len(rows)
    assert totals.taken == min(take, len(rows))
    used = [example.record_row for example in examples] + [reject.locator.row for reject in rejects]
    assert sorted(used) == list(range(len(rows) - totals.taken, len(rows)))
    assert (totals.written, totals.rejected) == (len(examples), len(rejects))
    assert [json.loads(reject.raw) for reject in rejects] == [rows[reject.locator.row] for reject in rejects]
    assert Counter(reject.code for reject in rejects) == totals.rejects


def test_a_record_that_names_another_extension_is_counted_each_time(tiny_recipe, tiny_folder, storage):
    talk = [{"from": "human", "value": "<image>\nQ?"}, {"from": "gpt", "value": "A."}]
    names = ["renamed.jpg", "renamed.jpg", "./renamed.jpg", "renamed.gif", "gif.jpg"]
    rows = [{"id": n, "image": f"pictures/{name}", "conversations": talk} for n, name in enumerate(names)]
    (tiny_folder / "named.json").write_text(json.dumps(rows))
    (totals,) = ingest(
        only(tiny_recipe, 0, annotations="named.json"), storage, SerialEngine()
    ).manifest.sources
    assert (totals.written, totals.repairs) == (5, {"found_by_stem": 3})


def test_a_cell_that_cannot_be_read_is_a_reject(tiny_recipe, tiny_folder, storage):
    table = pq.read_table(tiny_folder / "one.parquet")
    sources = [b"s", b"s", b"\xff", b"s", b"s"]
    broken = table.set_column(3, "data_source", pa.array(sources, pa.binary()).view(pa.string()))
    pq.write_table(broken, tiny_folder / "one.parquet", row_group_size=2)
    manifest = ingest(only(tiny_recipe, 2), storage, SerialEngine()).manifest
    (totals,) = manifest.sources
    assert (totals.read, totals.written, totals.rejects) == (5, 4, {"bad_type": 1})
    (reject,) = rows_of(storage, manifest.quarantine, read_quarantine)
    assert reject.locator == Locator("one.parquet", 2)
    assert json.loads(reject.raw)["id"] == "a/b.2"
    assert "data_source" in reject.message


def test_objects_are_named_by_what_they_hold(tiny_recipe, storage):
    manifest = ingest(tiny_recipe, storage, SerialEngine()).manifest
    entries = [*manifest.examples, *manifest.media, *manifest.quarantine]
    for entry in entries:
        assert entry.sha256[:16] in entry.path
        assert sha256_hex(read_object(storage, entry)) == entry.sha256
        assert entry.num_bytes == os.stat(storage.local_path(entry.path)).st_size
    assert len(entries) == 4


def test_a_damaged_table_is_named(tiny_recipe, storage):
    manifest = ingest(tiny_recipe, storage, SerialEngine()).manifest
    wrong = manifest.media[0].model_copy(update={"path": manifest.examples[0].path})
    with pytest.raises(CorruptError):
        list(read_media(storage, wrong))
    with pytest.raises(CorruptError, match="other columns"):
        list(read_media(storage, manifest.examples[0]))
