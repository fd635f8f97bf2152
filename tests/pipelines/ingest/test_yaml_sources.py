"""LLaVA-Mini's lists of annotation files: which rows of which file are taken, against the plain way."""

import hashlib
import json
import math

import pytest
import yaml
from few_media import talk

from infra.storage import LocalStorage
from pipelines.engine import SerialEngine
from pipelines.ingest.flow import ingest
from pipelines.ingest.retry import retry
from pipelines.ingest.tables import read_examples, read_quarantine
from schemas.configuration import build
from schemas.errors import ConfigError
from schemas.recipe import Recipe

NUM_ROWS = {
    "data/first.json": 13,
    "data/more/lines.jsonl": 7,
    "data/more/0.json": 0,
    "other/last.json": 10,
}
STRATEGIES = ["all", "first:3", "end:4", "random:5", "first:30%", "end:1%", "random:50%", "first:0", "end:0"]
STRATEGIES += ["random:0%", "end:100", "random:100", "first:100%"]


def make_rows(path, number):
    return [
        {"id": f"{path}:{n}", "conversations": talk(f"Question {n} of {path}?", "Yes." if n != 2 else "")}
        for n in range(number)
    ]


@pytest.fixture
def raws(tmp_path, monkeypatch):
    """The rows of each file as they are written; the files stand in the current folder."""
    monkeypatch.chdir(tmp_path)
    raws = {}
    for path, number in NUM_ROWS.items():
        raws[path] = [json.dumps(row) for row in make_rows(path, number)]
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        separator = "\n" if path.endswith("l") else ",\n  "
        text = separator.join(raws[path])
        (tmp_path / path).write_text(text if path.endswith("l") else f"[{text}]")
    return raws


def make_recipe(folder, datasets, **fields):
    (folder / "list.yaml").write_text(yaml.safe_dump({"datasets": datasets}))
    source = {"name": "s", "format": "llava_yaml", "annotations": "list.yaml", **fields}
    return build({"name": "listed", "sources": [source]}, Recipe, "listed")


def choose(strategy, raws):
    """Rows that a strategy takes, the plain way."""
    if strategy == "all":
        return list(range(len(raws)))
    how, _, amount = strategy.partition(":")
    share = amount.endswith("%")
    number = math.ceil(int(amount[:-1]) * len(raws) / 100) if share else int(amount)
    if how == "first":
        return list(range(len(raws)))[:number]
    if how == "end":
        return list(range(len(raws)))[max(0, len(raws) - number) :]
    lowest = sorted(range(len(raws)), key=lambda n: hashlib.sha256(raws[n].encode()).digest())[:number]
    return sorted(lowest)


def rows_of(storage, manifest):
    examples = [row for entry in manifest.examples for row in read_examples(storage, entry)]
    rejects = [row for entry in manifest.quarantine for row in read_quarantine(storage, entry)]
    used = [(row.record_file, row.record_row) for row in examples]
    return sorted([*used, *((reject.locator.file, reject.locator.row) for reject in rejects)])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_each_file_is_sampled_by_its_own_strategy(raws, tmp_path, strategy):
    others = ["first:2", "all", "random:3"]
    chosen = dict(zip(NUM_ROWS, [strategy, *others], strict=True))
    datasets = [{"json_path": path, "sampling_strategy": how} for path, how in chosen.items()]
    storage = LocalStorage(tmp_path / "corpus")
    manifest = ingest(make_recipe(tmp_path, datasets), storage, SerialEngine()).manifest
    expected = sorted((path, row) for path, how in chosen.items() for row in choose(how, raws[path]))
    assert rows_of(storage, manifest) == expected
    (totals,) = manifest.sources
    assert totals.files == NUM_ROWS
    assert (totals.read, totals.taken) == (30, len(expected))
    assert totals.taken == totals.written + totals.rejected


def test_a_list_may_call_its_first_ones_last_and_leave_the_strategy_out(raws, tmp_path):
    datasets = [{"json_path": path} for path in reversed(NUM_ROWS)]
    storage = LocalStorage(tmp_path / "corpus")
    manifest = ingest(make_recipe(tmp_path, datasets), storage, SerialEngine()).manifest
    assert len(rows_of(storage, manifest)) == 30
    assert manifest.sources[0].rejects == {"empty_answer": 3}


def test_one_file_in_two_lists_is_refused(raws, tmp_path):
    recipe = make_recipe(tmp_path, [{"json_path": "data/first.json"}], annotations=["list.yaml", "more.yaml"])
    (tmp_path / "more.yaml").write_text("datasets: [{json_path: ./data/../data/first.json}]")
    with pytest.raises(ConfigError, match=r"source s: .*data/first\.json is listed twice"):
        ingest(recipe, LocalStorage(tmp_path / "corpus"), SerialEngine())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("datasets: [{json_path: gone.json}]", "no annotation file gone.json"),
        ("datasets: []", "datasets"),
        ("[1]", "list.yaml"),
        ("datasets: [{json_path: data/first.json, sampling_strategy: 'half'}]", "sampling_strategy 'half'"),
        ("datasets: [{json_path: data/first.json, sampling: all}]", "unknown key 'datasets.0.sampling'"),
        ("datasets: [{json_path: !!python/name:os.system x}]", "tags"),
        (b"datasets: \xff", "no UTF-8"),
    ],
)
def test_lists_that_cannot_be_followed_are_told(raws, tmp_path, text, words):
    recipe = make_recipe(tmp_path, [])
    (tmp_path / "list.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=words.replace("(", r"\(")):
        ingest(recipe, LocalStorage(tmp_path / "corpus"), SerialEngine())


def test_what_is_mended_in_a_sampled_file_is_taken_back(raws, tmp_path):
    datasets = [{"json_path": path, "sampling_strategy": "end:95%"} for path in NUM_ROWS]
    recipe = make_recipe(tmp_path, datasets)
    storage = LocalStorage(tmp_path / "corpus")
    before = ingest(recipe, storage, SerialEngine()).manifest
    assert before.sources[0].rejects == {"empty_answer": 3}
    path = tmp_path / "other/last.json"
    path.write_text(path.read_text().replace('"value": ""', '"value": "Mended."'))
    retried = retry(recipe, storage, SerialEngine())
    assert (retried.num_tried, retried.num_mended) == (3, 1)
    whole = ingest(recipe, LocalStorage(tmp_path / "whole"), SerialEngine()).manifest
    assert (retried.manifest.examples, retried.manifest.sources) == (whole.examples, whole.sources)
