"""Retry: what was mended joins the corpus as a whole ingest would have it; nothing else is read."""

import json
from collections import Counter

import pytest
from fetches import watch_fetches
from watched_storage import read_objects

from infra.storage import LocalStorage
from pipelines.engine import SerialEngine
from pipelines.ingest import tables
from pipelines.ingest.flow import ingest
from pipelines.ingest.retry import retry
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
