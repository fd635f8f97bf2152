"""`verify`, `diff` and `gc` as they are typed: words, JSON and exit statuses."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from small_job import run_onetoken, talk, write_picture, write_yaml

SAME, DIFFERENT, TROUBLE = 0, 1, 2


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A corpus of two pictures, ingested and sharded."""
    folder = tmp_path_factory.mktemp("upkeep")
    rows = []
    for number, color in enumerate(("red", "blue")):
        write_picture(folder / f"media/{number}.png", color)
        rows.append({"id": number, "image": f"{number}.png", "conversations": talk("<image>\nQ?", color)})
    (folder / "a.json").write_text(json.dumps(rows))
    source = {"name": "s", "format": "llava", "annotations": str(folder / "a.json")}
    recipe = {"name": "two", "sources": [source | {"media_root": str(folder / "media")}]}
    write_yaml(folder / "recipe.yaml", recipe)
    for verb in ("ingest", "shard"):
        outcome = run_onetoken(verb, folder / "recipe.yaml", "--corpus", folder / "corpus")
        assert outcome.status == 0, outcome.err
    return folder / "corpus"


@pytest.fixture
def corpus(template, tmp_path):
    shutil.copytree(template, tmp_path / "corpus")
    return tmp_path / "corpus"


def test_verify_says_that_all_is_as_written(corpus):
    outcome = run_onetoken("verify", "--corpus", corpus)
    assert outcome.status == 0
    assert outcome.out.splitlines()[-1].endswith("2 items, 2 manifests, 1 commits: all as written")
    values = run_onetoken("verify", "--corpus", corpus, "--json").values
    assert (values["findings"], values["num_items"], values["num_objects"]) == ([], 2, 4)


def test_verify_names_damage_and_a_way_out_that_leads_out(corpus, template):
    (tar,) = (corpus / "shards").glob("*.tar")
    data = bytearray(tar.read_bytes())
    data[600] ^= 1
    tar.write_bytes(data)
    outcome = run_onetoken("verify", "--corpus", corpus)
    assert outcome.status == 1
    where = f"shards/{tar.name}"
    assert outcome.out.startswith(f"{where}: does not hold the bytes that were written: ")
    assert "; delete it and run the build again\n" in outcome.out
    outcome = run_onetoken("verify", "--corpus", corpus, "--json")
    assert outcome.status == 1
    assert [finding["where"] for finding in outcome.values["findings"]] == [where]
    tar.unlink()
    recipe = template.parent / "recipe.yaml"
    assert run_onetoken("shard", recipe, "--corpus", corpus).status == 0
    assert run_onetoken("verify", "--corpus", corpus).status == 0


def test_verify_of_nothing_fails(tmp_path):
    outcome = run_onetoken("verify", "--corpus", tmp_path)
    assert outcome.status == 1
    assert "holds no corpus" in outcome.said


def test_diff_ends_as_diff_does(corpus, template, tmp_path):
    assert run_onetoken("diff", template, corpus).status == SAME
    assert run_onetoken("diff", template, corpus, "--json").values["equal"] is True
    ingested, sharded = sorted((corpus / "manifests").iterdir(), key=lambda path: path.stat().st_size)
    outcome = run_onetoken("diff", f"{corpus}@{ingested.stem[:8]}", f"{corpus}@{sharded.stem}")
    assert outcome.status == DIFFERENT
    assert outcome.out.splitlines() == ["shards: 1 added", "  added image-all", "diff: they differ"]
    outcome = run_onetoken("diff", f"{corpus}@{sharded.stem[:8]}", corpus, "--json")
    assert (outcome.status, outcome.values["sections"]) == (SAME, {})
    outcome = run_onetoken("diff", corpus, tmp_path / "nothing")
    assert (outcome.status, outcome.out) == (TROUBLE, "")
    assert "holds no corpus" in outcome.said
    assert run_onetoken("diff", corpus, f"{corpus}@00000000").status == TROUBLE


def test_gc_tells_first_and_then_removes(corpus):
    garbage = corpus / "shards" / f"image-0-{'0' * 16}.tar"
    garbage.write_bytes(b"x")
    grow_old(garbage, 2)
    outcome = run_onetoken("gc", "--corpus", corpus, "--dry-run")
    assert outcome.out.splitlines() == [
        f"shards/{garbage.name}",
        "gc: would remove 1 objects, 0.0 MiB; kept 6 objects and 2 manifests",
    ]
    assert garbage.exists()
    values = run_onetoken("gc", "--corpus", corpus, "--json").values
    assert (values["removed"], values["removed_bytes"]) == ([f"shards/{garbage.name}"], 1)
    assert not garbage.exists()
    assert run_onetoken("gc", "--corpus", corpus, "--json").values["removed"] == []


def test_gc_keeps_the_manifests_that_are_named(corpus):
    ingested, sharded = sorted((corpus / "manifests").iterdir(), key=lambda path: path.stat().st_size)
    grow_old(ingested, 10)
    grow_old(sharded, 9)
    keep = ("--keep-days", "5")
    named = run_onetoken("gc", "--corpus", corpus, *keep, "--keep", ingested.stem[:10], "--json")
    assert named.values["removed"] == []
    assert run_onetoken("gc", "--corpus", corpus, "--json").values["removed"] == []
    gone = run_onetoken("gc", "--corpus", corpus, *keep, "--json").values["removed"]
    assert gone == [f"manifests/{ingested.name}"]
    outcome = run_onetoken("gc", "--corpus", corpus, "--keep", ingested.stem[:10])
    assert outcome.status == TROUBLE
    assert "manifests have a digest that begins with" in outcome.said


def grow_old(path: Path, days: float) -> None:
    moment = time.time() - 86_400 * days
    os.utime(path, (moment, moment))
