"""`onetoken plan`: a recipe before anything is read, and a corpus beside what the plan said."""

import re
from pathlib import Path

import pytest
import yaml
from small_job import run_onetoken, write_yaml

from pipelines.analyze.corpus_counts import count_recipe
from schemas.configuration import parse_yaml
from schemas.recipe import Recipe

REPOSITORY = Path(__file__).resolve().parents[2]

SOURCES = [
    {
        "name": "pictures",
        "format": "llava",
        "annotations": "nowhere.json",
        "counts": {"examples": 1000, "images": 900, "unique_images": 300},
    }
]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.analyze.calibrate._time_encoder", lambda: 1.0)
    monkeypatch.setattr("pipelines.analyze.calibrate.time_work", lambda work, short_s: 1e-3)


def test_a_recipe_is_planned_from_its_counts(tmp_path) -> None:
    recipe = write_yaml(tmp_path / "r.yaml", {"name": "r", "sources": SOURCES})
    cluster = write_yaml(tmp_path / "c.yaml", {"nodes": 2, "gpus": 4, "prices": {"gpu_hour": 2.0}})
    outcome = run_onetoken("plan", recipe, "--cluster", cluster, "--json")
    assert outcome.status == 0, outcome.err
    values = outcome.values
    assert (values["items"], values["views"], values["naive_views"]) == (300, 1500, 4500)
    assert values["codec_bytes"]["fp16"] == 1500 * (576 * 2048 + 2048)
    assert values["reduced"]["prumerge_plus"]["share"][1] < 0.27
    assert values["training_gpu_hours"]["stage 2"] > 0
    words = run_onetoken("plan", recipe, "--cluster", cluster).out
    for word in ("TB", "CPU-core hours", "GPU hours to train stage 1", "S3 requests", "caching"):
        assert word in words
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.yaml", "r.yaml"], "nothing is written"


def test_a_plan_says_when_caching_does_not_pay(tmp_path) -> None:
    once = [SOURCES[0] | {"counts": {"examples": 300, "images": 300, "unique_images": 300}}]
    recipe = write_yaml(tmp_path / "r.yaml", {"name": "r", "sources": once})
    dear = {"prices": {"gpu_hour": 1.0, "tb_month": 1e6}}
    outcome = run_onetoken("plan", recipe, "--cluster", write_yaml(tmp_path / "c.yaml", dear), "--passes", 1)
    assert "caching does not pay" in outcome.out


def test_a_corpus_is_counted_and_compared(small_job, outcomes) -> None:
    outcome = run_onetoken("plan", small_job.recipe, "--corpus", small_job.corpus, "--json")
    assert outcome.status == 0, outcome.err
    values = outcome.values
    assert values["views"] == outcomes["featurize"].values["views"]
    assert values["items"] == outcomes["ingest"].values["unique_media"]
    assert values["counts"]["examples"] == outcomes["ingest"].values["written"]
    (line,) = values["actual"]
    assert f"{values['views']} views, planned {values['views']}" in line


def test_what_cannot_be_planned_is_told(tmp_path) -> None:
    bare = write_yaml(tmp_path / "r.yaml", {"name": "r", "sources": [SOURCES[0] | {"counts": None}]})
    for file, words in (
        (bare, "counts"),
        (tmp_path / "nowhere.yaml", "nowhere.yaml"),
        (write_yaml(tmp_path / "s.yaml", yaml.safe_load("sources: 3")), "name"),
    ):
        outcome = run_onetoken("plan", file)
        assert outcome.status == 2, file
        assert words in outcome.said


def test_a_build_is_simulated(tmp_path) -> None:
    recipe = write_yaml(tmp_path / "r.yaml", {"name": "r", "sources": SOURCES, "shards": {"max_views": 100}})
    cluster = write_yaml(tmp_path / "c.yaml", {"nodes": 3, "gpus": 2})
    outcome = run_onetoken("plan", recipe, "--simulate", "--cluster", cluster, "--json")
    assert outcome.status == 0, outcome.err
    assert outcome.values["items"] == 300
    assert outcome.values["shards"] >= 15
    more = run_onetoken("plan", recipe, "--simulate", "--items", 2000, "--cluster", cluster)
    assert "2,000 items" in more.out
    assert run_onetoken("plan", recipe, "--items", 5).status == 2
    crumbs = run_onetoken("plan", recipe, "--simulate", "--items", 5_000_000_000)
    assert crumbs.status == 2
    assert "raise `shards.max_bytes` and `shards.max_views`" in crumbs.said


def test_the_page_of_the_real_job_says_what_the_plan_says() -> None:
    page = (REPOSITORY / "docs/real-job.md").read_text()
    rows = re.findall(r"^\| `(\w+\.yaml)` \|((?: [\d.,]+ \|){8})$", page, re.MULTILINE)
    planned = run_onetoken("plan", REPOSITORY / "jobs/recipes/llava_mini_665k.yaml", "--json")
    assert planned.status == 0, planned.err
    values = planned.values
    assert [name for name, _ in rows] == [
        *("pretrain_558k.yaml", "mix_665k.yaml", "video_chatgpt_100k.yaml", "llava_mini_665k.yaml")
    ]
    for name, cells in rows:
        text = (REPOSITORY / "jobs/recipes" / name).read_text()
        counts = count_recipe(parse_yaml(text, Recipe, name))
        share = counts.views / values["views"]
        codecs = [values["codec_bytes"][codec] * share / 1e12 for codec in ("int8", "compact", "fp16")]
        assert [cell.strip() for cell in cells.split("|")[:-1]] == [
            *(f"{count:,}" for count in (counts.examples, counts.items, counts.views)),
            f"{counts.media_bytes / 1e12:.2f}",
            *(f"{size:.2f}" for size in codecs),
            f"{values['encode_gpu_hours'] * share:.1f}",
        ]
    assert rows[-1][1].startswith(f" {values['counts']['examples']:,} | {values['items']:,} | ")
