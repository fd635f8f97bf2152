"""Retry: what was mended joins the corpus as a whole ingest would have it; nothing else is read."""

import json
from collections import Counter
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fetches import watch_fetches
from few_media import talk
from watched_storage import read_objects

from infra.storage import LocalStorage
from pipelines.engine import SerialEngine
from pipelines.ingest import tables
from pipelines.ingest.flow import ingest
from pipelines.ingest.retry import retry
from pipelines.ingest.rows.ranges import plan_ranges
from pipelines.ingest.tables import read_quarantine
from schemas.configuration import build
from schemas.errors import MismatchError, NotFoundError
from schemas.recipe import Recipe


@pytest.fixture
def storage(tmp_path):
    return LocalStorage(tmp_path / "corpus")


def mend_files(folder):
    """Mend a missing picture, a cut one, an empty clip and an empty answer; the rest stays as it is."""
    whole = (folder / "media/pictures/1.jpg").read_bytes()
    (folder / "media/pictures/gone.jpg").write_bytes(whole[:-2] + b"\xff\xfe\x00\x04ab\xff\xd9")
    (folder / "media/pictures/cut.jpg").write_bytes(whole)
    (folder / "media/clips/v_zero.mp4").write_bytes((folder / "media/clips/v_1.mp4").read_bytes())
    rows = json.loads((folder / "llava.json").read_text())
    mute = next(row for row in rows if isinstance(row, dict) and row["id"] == "mute")
    mute["conversations"][1]["value"] = "An answer."
    (folder / "llava.json").write_text(json.dumps(rows, indent=1))


def rows_of(storage, manifest):
    return [
        (reject.source, reject.locator.row, reject.code)
        for entry in manifest.quarantine
        for reject in read_quarantine(storage, entry)
    ]


@pytest.mark.parametrize("rows_per_file", [50_000, 5])
def test_a_retry_gives_what_a_whole_ingest_gives(
    tiny_recipe, tiny_folder, storage, tmp_path, monkeypatch, rows_per_file
):
    monkeypatch.setattr(tables, "ROWS_PER_FILE", rows_per_file)
    before = ingest(tiny_recipe, storage, SerialEngine()).manifest
    mend_files(tiny_folder)
    retried = retry(tiny_recipe, storage, SerialEngine())
    assert (retried.num_tried, retried.num_mended) == (7, 4)
    whole = LocalStorage(tmp_path / "whole")
    wanted = ingest(tiny_recipe, whole, SerialEngine()).manifest
    after = retried.manifest
    for part in ("examples", "media", "plan", "sources", "media_digest", "num_media", "num_media_uses"):
        assert getattr(after, part) == getattr(wanted, part), part
        assert part == "plan" or getattr(after, part) != getattr(before, part), part
    assert rows_of(storage, after) == rows_of(whole, wanted)
    assert len(rows_of(storage, after)) == 3


def test_only_media_of_rejected_rows_are_opened(tiny_recipe, tiny_folder, storage, monkeypatch):
    ingest(tiny_recipe, storage, SerialEngine())
    opened = []
    watch_fetches(monkeypatch, lambda fetched: opened.append(fetched.location) or fetched)
    mend_files(tiny_folder)
    retry(tiny_recipe, storage, SerialEngine())
    # 0.jpg, of the empty answer, and the clip called a picture have not changed since they were probed
    assert sorted(opened) == ["pictures/cut.jpg", "pictures/gone.jpg", "v_zero.mp4"]


def test_nothing_mended_changes_nothing(tiny_recipe, storage):
    before = ingest(tiny_recipe, storage, SerialEngine()).manifest
    retried = retry(tiny_recipe, storage, SerialEngine())
    assert (retried.num_tried, retried.num_mended) == (7, 0)
    assert retried.manifest.examples == before.examples
    assert retried.manifest.sources == before.sources
    assert rows_of(storage, retried.manifest) == rows_of(storage, before)
    again = retry(tiny_recipe, storage, SerialEngine())
    assert again.manifest == retried.manifest


def test_duplicates_stay_rejected_and_what_was_good_first_is_kept(tiny_recipe, tiny_folder, storage):
    values = tiny_recipe.model_dump(mode="json")
    values["sources"][0]["deduplicate"] = True
    recipe = build(values, Recipe, "deduplicated")
    rows = json.loads((tiny_folder / "llava.json").read_text())
    rows.insert(0, {"id": "first", "image": "pictures/late.jpg", "conversations": rows[0]["conversations"]})
    (tiny_folder / "llava.json").write_text(json.dumps(rows))
    before = ingest(recipe, storage, SerialEngine()).manifest
    assert before.sources[0].rejects["duplicate_record"] == 3
    (tiny_folder / "media/pictures/late.jpg").write_bytes((tiny_folder / "media/pictures/0.jpg").read_bytes())
    after = retry(recipe, storage, SerialEngine()).manifest
    assert after.sources[0].rejects["duplicate_record"] == 4
    assert after.examples == before.examples
    codes = Counter(code for source, _, code in rows_of(storage, after) if source == "mix")
    assert codes == after.sources[0].rejects


@pytest.mark.parametrize("name", ["x-duplicates-all", "duplicates", "x-duplicates"])
def test_a_source_may_be_called_duplicates(tiny_recipe, tiny_folder, storage, name):
    source = tiny_recipe.sources[0].model_copy(update={"name": name, "deduplicate": True})
    recipe = tiny_recipe.model_copy(update={"sources": [source]})
    ingest(recipe, storage, SerialEngine())
    mend_files(tiny_folder)
    retried = retry(recipe, storage, SerialEngine())
    assert (retried.num_tried, retried.num_mended) == (6, 3)
    assert retried.manifest.sources[0].rejects["duplicate_record"] == 3


def test_files_with_other_rows_are_refused(tiny_recipe, tiny_folder, storage):
    ingest(tiny_recipe, storage, SerialEngine())
    rows = json.loads((tiny_folder / "llava.json").read_text())
    (tiny_folder / "llava.json").write_text(json.dumps(rows[1:]))
    kept = read_objects(storage.url)
    with pytest.raises(MismatchError, match="had 26 rows when it was ingested, now it has 25"):
        retry(tiny_recipe, storage, SerialEngine())
    assert read_objects(storage.url) == kept


def test_without_a_corpus_or_with_another_recipe_nothing_is_tried(tiny_recipe, storage):
    with pytest.raises(NotFoundError):
        retry(tiny_recipe, storage, SerialEngine())
    ingest(tiny_recipe, storage, SerialEngine())
    other = tiny_recipe.model_copy(update={"sources": tiny_recipe.sources[:1]})
    with pytest.raises(MismatchError, match="run `onetoken ingest` with it"):
        retry(other, storage, SerialEngine())


SAID = pa.schema(
    [
        ("id", pa.string()),
        ("conversations", pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())]))),
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
    ]
)


def say(number):
    answer = "" if number in (1, 4) else f"A{number}"
    return {"id": f"r{number}", "conversations": talk(f"Q{number}", answer)}


def make_said(folder, rows, kind="json", **fields):
    """A source of conversations about no medium, and a recipe of it."""
    path = folder / f"said.{kind}"
    if kind == "parquet":
        table = pa.Table.from_pylist([row | {"image": None} for row in rows], SAID)
        pq.write_table(table, path, row_group_size=3)
    else:
        lines = [json.dumps(row) for row in rows]
        path.write_text("\n".join(lines) if kind == "jsonl" else f"[{', '.join(lines)}]")
    name = "onevision" if kind == "parquet" else "sharegpt" if kind == "jsonl" else "llava"
    source = {"name": "said", "format": name, "annotations": str(path), "reject_budget": 1, **fields}
    return build({"name": "said", "sources": [source]}, Recipe, "said")


def mended(row):
    asked, _ = row["conversations"]
    return row | {"conversations": talk(asked["value"], "Mended.")}


def swap(rows, one, other):
    rows[one], rows[other] = rows[other], rows[one]
    return rows


MOVES = {
    "deleted and put at the end": (lambda rows: [rows[0], *rows[2:], mended(rows[1])], 2),
    "good rows swapped": (lambda rows: swap(rows, 2, 3), 2),
    "a good one and a rejected one swapped": (lambda rows: swap(rows, 4, 5), 5),
    "a good one changed": (lambda rows: [*rows[:3], mended(rows[3]), *rows[4:]], 3),
    "the id of a good one changed": (lambda rows: [*rows[:3], rows[3] | {"id": "x"}, *rows[4:]], 3),
    "a good one is no record any more": (lambda rows: [*rows[:5], say(1)], 5),
}


@pytest.mark.parametrize("kind", ["json", "jsonl", "parquet"])
@pytest.mark.parametrize("move", MOVES)
def test_rows_that_moved_are_refused_and_named(tmp_path, storage, monkeypatch, kind, move):
    monkeypatch.setattr("pipelines.ingest.inputs.plan_ranges", partial(plan_ranges, range_bytes=1))
    rows = [say(number) for number in range(6)]
    ingest(make_said(tmp_path, rows, kind), storage, SerialEngine())
    kept = read_objects(storage.url)
    change, first = MOVES[move]
    recipe = make_said(tmp_path, change([say(number) for number in range(6)]), kind)
    with pytest.raises(MismatchError, match=rf"source said: row {first} of said\.{kind} is another record"):
        retry(recipe, storage, SerialEngine())
    assert read_objects(storage.url) == kept


@pytest.mark.parametrize("kind", ["json", "jsonl", "parquet"])
def test_a_duplicate_that_moved_is_refused_and_one_that_stayed_is_not(tmp_path, storage, kind):
    rows = [say(0), say(1), say(2), say(0), say(4)]
    recipe = make_said(tmp_path, rows, kind, deduplicate=True)
    before = ingest(recipe, storage, SerialEngine()).manifest
    assert before.sources[0].rejects == {"duplicate_record": 1, "empty_answer": 2}
    make_said(tmp_path, swap(list(rows), 3, 4), kind)
    with pytest.raises(MismatchError, match=f"row 3 of said.{kind} is another record"):
        retry(recipe, storage, SerialEngine())
    make_said(tmp_path, [*rows[:1], mended(rows[1]), *rows[2:]], kind)
    retried = retry(recipe, storage, SerialEngine())
    assert (retried.num_tried, retried.num_mended) == (2, 1)
    assert retried.manifest.sources[0].rejects == {"duplicate_record": 1, "empty_answer": 1}


def test_rows_that_are_spelled_otherwise_are_the_same(tmp_path, storage):
    rows = [say(number) for number in range(6)]
    recipe = make_said(tmp_path, rows)
    ingest(recipe, storage, SerialEngine())
    rows[1] = mended(rows[1])
    turned = [dict(reversed(row.items())) | {"more": "é\\"} for row in rows]
    (tmp_path / "said.json").write_text(json.dumps(turned, indent=4))
    retried = retry(recipe, storage, SerialEngine())
    assert (retried.num_tried, retried.num_mended) == (2, 1)


def test_a_source_without_one_good_record_is_tried_again(tmp_path, storage):
    rows = [say(1), say(4)]
    recipe = make_said(tmp_path, rows)
    ingest(recipe, storage, SerialEngine())
    retried = retry(recipe, storage, SerialEngine())
    assert (retried.num_tried, retried.num_mended) == (2, 0)
    assert (retried.manifest.sources[0].written, retried.manifest.sources[0].rejected) == (0, 2)
    make_said(tmp_path, [mended(row) for row in rows])
    retried = retry(recipe, storage, SerialEngine())
    assert (retried.num_tried, retried.num_mended) == (2, 2)
    assert (retried.manifest.sources[0].written, retried.manifest.sources[0].rejected) == (2, 0)
    assert not retried.manifest.quarantine
    whole = ingest(recipe, LocalStorage(tmp_path / "whole"), SerialEngine()).manifest
    assert whole == retried.manifest
    assert retry(recipe, storage, SerialEngine()).num_tried == 0


def make_alike(folder, names, **fields):
    """A source of rows without ids that say the same, each about a picture; `gone.jpg` is missing."""
    rows = [
        {"image": f"pictures/{name}", "conversations": talk("<image>\nWhat is shown?", "A ball.")}
        for name in names
    ]
    (folder / "alike.json").write_text(json.dumps(rows))
    source = {
        "name": "alike",
        "format": "llava",
        "annotations": str(folder / "alike.json"),
        "media_root": str(folder / "media"),
        "reject_budget": 1,
        **fields,
    }
    return build({"name": "alike", "sources": [source]}, Recipe, "alike")


def test_a_reject_that_may_have_changed_places_with_a_good_row_is_refused(tiny_folder, storage):
    recipe = make_alike(tiny_folder, ["0.jpg", "gone.jpg", "1.jpg"])
    ingest(recipe, storage, SerialEngine())
    kept = read_objects(storage.url)
    make_alike(tiny_folder, ["gone.jpg", "0.jpg", "1.jpg"])
    with pytest.raises(MismatchError, match=r"row 1 of alike\.json names other media .* a good row says the"):
        retry(recipe, storage, SerialEngine())
    assert read_objects(storage.url) == kept


@pytest.mark.parametrize(
    ("deduplicate", "mended", "rejects"),
    [(False, 2, {"missing_file": 1}), (True, 1, {"missing_file": 1, "duplicate_record": 2})],
)
def test_a_reject_like_a_good_row_is_mended_where_it_stands(
    tiny_folder, storage, deduplicate, mended, rejects
):
    names = ["0.jpg", "gone.jpg", "0.jpg", "lost.jpg", "gone.jpg"]
    recipe = make_alike(tiny_folder, names, deduplicate=deduplicate)
    ingest(recipe, storage, SerialEngine())
    mend_files(tiny_folder)
    retried = retry(recipe, storage, SerialEngine())
    assert (retried.num_tried, retried.num_mended) == (3, mended)
    assert retried.manifest.sources[0].rejects == rejects


def test_a_reject_that_nothing_good_is_like_may_name_another_medium(tiny_folder, storage):
    recipe = make_alike(tiny_folder, ["gone.jpg", "lost.jpg"])
    ingest(recipe, storage, SerialEngine())
    make_alike(tiny_folder, ["1.jpg", "gone.jpg"])
    retried = retry(recipe, storage, SerialEngine())
    assert (retried.num_tried, retried.num_mended) == (2, 1)
    whole = ingest(recipe, LocalStorage(tiny_folder / "whole"), SerialEngine()).manifest
    assert (retried.manifest.examples, retried.manifest.media) == (whole.examples, whole.media)


def test_a_reject_whose_text_was_mended_too_may_name_another_medium(tiny_folder, storage):
    recipe = make_alike(tiny_folder, ["0.jpg", "gone.jpg"])
    ingest(recipe, storage, SerialEngine())
    rows = json.loads((tiny_folder / "alike.json").read_text())
    rows[1] = mended(rows[1]) | {"image": "pictures/1.jpg"}
    (tiny_folder / "alike.json").write_text(json.dumps(rows))
    retried = retry(recipe, storage, SerialEngine())
    assert (retried.num_tried, retried.num_mended) == (1, 1)
