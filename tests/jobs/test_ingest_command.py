"""`onetoken ingest` and `onetoken retry` as they are typed: table, JSON, status, which recipe is used."""

import json
import os
import shutil
from pathlib import Path

import pytest
from small_job import run_onetoken, talk, write_picture, write_yaml

OVER_BUDGET, FAILED, USAGE = 3, 1, 2


def write_inputs(folder: Path) -> Path:
    """Two sources over three pictures, one of which is missing; the recipe."""
    for name, color in (("a", "red"), ("b", "green")):
        write_picture(folder / f"media/{name}.png", color)
    rows: list[object] = [
        {"id": n, "image": f"{name}.png", "conversations": talk("<image>\nQ?", f"A{n}.")}
        for n, name in enumerate(["a", "a", "a", "b", "gone", "gone"])
    ]
    rows += ["no record", {"id": "t", "conversations": talk("Q?", "A.")}]
    (folder / "one.json").write_text(json.dumps(rows))
    (folder / "two.json").write_text(json.dumps(rows[:4]))
    sources = [
        {"name": name, "format": "llava", "annotations": f"{name}.json", "media_root": "media"}
        for name in ("one", "two")
    ]
    sources[1] |= {"take": "first:3"}
    return write_yaml(folder / "recipe.yaml", {"name": "typed", "sources": sources})


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, with inputs and their recipe."""
    folder = tmp_path / "here"
    folder.mkdir()
    write_inputs(folder)
    monkeypatch.chdir(folder)
    return folder


def ingest(*arguments):
    return run_onetoken("ingest", "recipe.yaml", "--corpus", "corpus", *arguments)


def retry(corpus, *arguments):
    return run_onetoken("retry", "--corpus", corpus, *arguments)


def test_a_table_says_what_became_of_each_source(here):
    outcome = ingest()
    saved = (2 * os.path.getsize("media/a.png")) / 2**20
    lines = [line.split() for line in outcome.out.splitlines()]
    assert " ".join(lines[0]) == "source records examples rejected not taken media unique saved"
    assert lines[1] == ["one", "8", "5", "3", "0", "4", "2", f"{saved:.1f}", "MiB"]
    assert lines[2] == ["two", "4", "3", "0", "1", "3", "1", f"{saved:.1f}", "MiB"]
    assert lines[3] == ["one:", "rejected", "missing_file", "2,", "not_an_object", "1"]
    assert "ingest: read 12 = written 8 + rejected 3 + not taken 1" in outcome.out
    assert "media: 7 uses of 2 unique media" in outcome.out
    assert "probe: read " in outcome.out
    assert "Traceback" not in outcome.err


def test_the_status_is_3_and_the_codes_are_named(here):
    outcome = ingest()
    assert outcome.status == OVER_BUDGET
    wanted = "one: 3 of 8 records rejected, the budget is 5 %; spent on missing_file 2, not_an_object 1."
    assert wanted in outcome.said
    assert "two:" not in outcome.said
    assert Path("corpus/corpus.json").exists()
    assert run_onetoken("shard", "recipe.yaml", "--corpus", "corpus").status == 0


def test_json_says_the_same(here):
    values = ingest("--json").values
    wanted = {"read": 12, "written": 8, "rejected": 3, "not_taken": 1, "media": 7, "unique_media": 2}
    assert {key: values[key] for key in wanted} == wanted
    assert values["rejects"] == {"missing_file": 2, "not_an_object": 1}
    assert values["read"] == values["written"] + values["rejected"] + values["not_taken"]
    assert {name: source["written"] for name, source in values["sources"].items()} == {"one": 5, "two": 3}
    assert values["media_read"] >= 2
    again = ingest("--json").values
    assert (again["media_read"], again["media_unchanged"]) == (0, 3)
    reread = ingest("--json", "--reread").values
    assert reread["media_read"] == values["media_read"]
    same = values.keys() - {"media_read", "media_unchanged"}
    assert {key: again[key] for key in same} == {key: values[key] for key in same}


@pytest.mark.parametrize("verb", ["shard", "featurize"])
def test_only_ingest_reads_media_again(here, verb):
    outcome = run_onetoken(verb, "recipe.yaml", "--corpus", "corpus", "--reread")
    assert (outcome.status, outcome.out) == (USAGE, "")
    assert "--reread goes with ingest and build" in outcome.said
    assert not Path("corpus").exists()


def mend(folder):
    write_picture(folder / "media/gone.png", "blue")


def test_retry_mends_what_was_mended(here):
    ingest()
    mend(here)
    outcome = retry("corpus", "--json")
    assert outcome.status == OVER_BUDGET
    values = outcome.values
    assert (values["tried"], values["mended"]) == (3, 2)
    assert (values["read"], values["written"], values["rejected"], values["media_read"]) == (12, 10, 1, 1)
    assert values["rejects"] == {"not_an_object": 1}
    words = retry("corpus")
    assert "retry: 0 of 1 records are good now" in words.out
    assert "one: 1 of 8 records rejected" in words.said


def test_retry_ends_well_within_the_budget(here):
    ingest()
    mend(here)
    rows = json.loads(Path("one.json").read_text())
    Path("one.json").write_text(json.dumps([{**rows[0]} if row == "no record" else row for row in rows]))
    outcome = retry("corpus", "--engine", "processes", "--workers", "1")
    assert outcome.status == 0
    assert "retry: 3 of 3 records are good now" in outcome.out
    assert "ingest: read 12 = written 11 + rejected 0 + not taken 1" in outcome.out


def test_retry_elsewhere_needs_the_recipe(here, tmp_path, monkeypatch):
    ingest()
    mend(here)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    lost = retry(here / "corpus")
    assert (lost.status, lost.out) == (USAGE, "")
    assert f"seen from {elsewhere}; run the command where ingest was run" in lost.said
    assert "name the recipe with --recipe" in lost.said
    recipe = (here / "recipe.yaml").read_text().replace("annotations: ", f"annotations: {here}/")
    (elsewhere / "recipe.yaml").write_text(recipe.replace("media_root: ", f"media_root: {here}/"))
    found = retry(here / "corpus", "--recipe", "recipe.yaml", "--json")
    assert (found.status, found.values["mended"]) == (OVER_BUDGET, 2)


def test_of_two_kept_recipes_the_one_that_leads_somewhere_is_used(here, tmp_path, monkeypatch):
    ingest()
    moved = tmp_path / "moved"
    shutil.copytree(here, moved, ignore=shutil.ignore_patterns("corpus"))
    text = (here / "recipe.yaml").read_text()
    absolute = text.replace("annotations: ", f"annotations: {moved}/")
    (moved / "recipe.yaml").write_text(absolute.replace("media_root: ", f"media_root: {moved}/"))
    assert run_onetoken("ingest", moved / "recipe.yaml", "--corpus", "corpus").status == OVER_BUDGET
    assert len(list(Path("corpus/recipes").iterdir())) == 2
    unsure = retry("corpus")
    assert (unsure.status, unsure.out) == (USAGE, "")
    assert "keeps 2 recipes" in unsure.said
    assert "--recipe" in unsure.said
    assert retry("corpus", "--recipe", "recipe.yaml").status == OVER_BUDGET
    monkeypatch.chdir(tmp_path)
    mend(moved)
    assert retry("here/corpus", "--json").values["mended"] == 2


def test_retry_refuses_other_recipes_and_other_rows(here):
    assert "holds no corpus" in retry("corpus").said
    assert retry("corpus").status == FAILED
    ingest()
    changed = Path("recipe.yaml").read_text().replace("first:3", "first:2")
    Path("changed.yaml").write_text(changed)
    other = retry("corpus", "--recipe", "changed.yaml")
    assert (other.status, other.out) == (FAILED, "")
    assert "run `onetoken ingest` with it" in other.said
    Path("one.json").write_text(json.dumps(json.loads(Path("one.json").read_text())[1:]))
    moved = retry("corpus")
    assert (moved.status, moved.out) == (FAILED, "")
    assert "one.json had 8 rows when it was ingested, now it has 7" in moved.said


@pytest.mark.parametrize("verb", ["ingest", "retry"])
def test_help_names_the_options(verb):
    outcome = run_onetoken(verb, "--help")
    assert outcome.status == 0
    wanted = {"ingest": "--reread", "retry": "--recipe"}
    assert all(option in outcome.out for option in ("--corpus", "--json", "--engine", wanted[verb]))
