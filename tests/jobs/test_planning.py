"""`onetoken plan`: a recipe before anything is read, and a corpus beside what the plan said."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from small_job import run_onetoken, write_yaml

from infra.storage import open_storage
from pipelines.analyze.cache_size import REDUCERS
from pipelines.analyze.corpus_counts import count_recipe
from pipelines.commit import load_manifest
from pipelines.stream.reader import FeatureReader
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
    monkeypatch.setattr("pipelines.analyze.calibrate._time_encoder", lambda _: 1.0)
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
    assumed = " ".join(values["assumed"])
    for word in (
        *("vicuna-7b", "4 pre-fusion layers", "C=1", "1 view a picture", "120 text tokens"),
        *("stage 1 passes 1 time", "stage 2 2 times", "2 and 3 times its forward pass"),
        "312 TFLOPS a GPU, of which training reaches 40% and the encoder 20%; 1 GB/s a machine",
    ):
        assert word in assumed
    assert "one A100" not in assumed
    assert "assumed: one A100, for want of --cluster" in run_onetoken("plan", recipe).out
    words = run_onetoken("plan", recipe, "--cluster", cluster).out
    assert [line for line in words.splitlines() if line.startswith("assumed: ")] == [
        f"assumed: {one}" for one in values["assumed"]
    ]
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
    (cache,) = values["actual"]["caches"]
    assert cache["views"] == cache["planned_views"] == values["views"]
    assert cache["num_bytes"] > 0.9 * cache["planned_bytes"] > 0
    assert values["actual"]["hours"] is None


def test_a_corpus_is_planned_with_its_own_encoder(small_job, outcomes, tmp_path) -> None:
    """16 numbers a patch, and not 1024; another name, that is not here, is counted as the published one."""
    recipe = yaml.safe_load(small_job.recipe.read_text())
    outcome = run_onetoken("plan", small_job.recipe, "--corpus", small_job.corpus, "--json")
    views = outcome.values["views"]
    assert outcome.values["codec_bytes"]["fp16"] == views * (576 + 1) * 2 * 16
    recipe["encoder"]["model"] = "nobody/has-this"
    told = run_onetoken("plan", write_yaml(tmp_path / "r.yaml", recipe), "--corpus", small_job.corpus)
    assert "nobody/has-this, not at hand, counted as ViT-L/14 at 336 pixels: 576 patches of 1,024" in told.out


def test_reduced_sizes_are_those_of_caches_that_were_built(small_job, outcomes, tmp_path) -> None:
    """All views of the corpus fit the sample: so many tokens and bytes stand in a reduced cache, too."""
    corpus = tmp_path / "corpus"
    shutil.copytree(small_job.corpus, corpus)
    outcome = run_onetoken("plan", small_job.recipe, "--corpus", corpus, "--json")
    assert outcome.status == 0, outcome.err
    sampled = outcome.values["actual"]["reduced"]
    assert sampled.keys() == set(REDUCERS)
    assert 1 <= sampled["prumerge"]["tokens"] <= 144 == sampled["average"]["tokens"]
    words = run_onetoken("plan", small_job.recipe, "--corpus", corpus).out
    assert f"{sampled['prumerge']['tokens']:,.1f}" in words
    recipe = yaml.safe_load(small_job.recipe.read_text()) | {"reducer": "spatial"}
    built = write_yaml(tmp_path / "spatial.yaml", recipe)
    assert run_onetoken("featurize", built, "--corpus", corpus).status == 0
    storage = open_storage(str(corpus))
    manifest = load_manifest(storage)
    digest = manifest.latest_spec
    assert digest is not None
    reader = FeatureReader(storage, manifest, digest)
    payloads = [
        len(payload)
        for shard in reader.list_shards()
        for key in reader.list_keys(shard)
        for medium in reader.read_stored(key, shard=shard)
        for payload in medium.payloads
    ]
    mean = sampled["spatial"]["num_bytes"] / sampled["spatial"]["num_views"]
    assert sum(payloads) / len(payloads) + 2 * 16 == pytest.approx(mean, rel=0.02)


def test_hours_are_those_of_the_log(small_job, tmp_path) -> None:
    corpus, log = tmp_path / "corpus", tmp_path / "events.jsonl"
    assert run_onetoken("build", small_job.recipe, "--corpus", corpus, "--events", log).status == 0
    arguments = ("plan", small_job.recipe, "--corpus", corpus, "--events")
    outcome = run_onetoken(*arguments, log, "--json")
    assert outcome.status == 0, outcome.err
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    shard_s = sum(
        line["seconds"] for line in lines if line["event"] == "unit_done" and line["stage"] == "shard"
    )
    used = [line for line in lines if line["event"] == "encoder_used"]
    hours = outcome.values["actual"]["hours"]
    assert hours["shard"] == pytest.approx(shard_s / 3600)
    assert hours["encode"] == pytest.approx(sum(line["busy_s"] for line in used) / 3600)
    assert hours["decode"] == pytest.approx(sum(line["decoders_busy_s"] for line in used) / 3600)
    assert hours["ingest"] > 0
    assert hours["views"] == outcome.values["views"]
    part = tmp_path / "part.jsonl"
    shards = (line for line in lines if line["stage"] == "shard")
    part.write_text("".join(json.dumps(line) + "\n" for line in shards) + '{"event": "unit_')
    words = run_onetoken(*arguments, part)
    assert re.search(r"decode +[\d.]+ +unknown", words.out)
    assert re.search(r"shard +[\d.]+ +[\d.]+", words.out)
    assert "unknown; build with --events" in run_onetoken(*arguments[:-1]).out
    part.write_text('{"event": "dinner"}\n')
    refused = run_onetoken(*arguments, part)
    assert refused.status == 2
    assert "line 1 is no event" in refused.said
    assert run_onetoken("plan", small_job.recipe, "--events", log).status == 2


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
    cluster = write_yaml(
        tmp_path / "c.yaml", {"nodes": 3, "gpus": 2, "hours_to_failure": 50, "gpu_tflops": 156}
    )
    outcome = run_onetoken("plan", recipe, "--simulate", "--cluster", cluster, "--json")
    assert outcome.status == 0, outcome.err
    assert outcome.values["items"] == 300
    assert outcome.values["shards"] >= 15
    assert outcome.values["assumed"]["mean_time_to_failure_s"] == 3600 * 50
    assert outcome.values["assumed"]["view_s"] == pytest.approx(2 * 0.0061, rel=0.1)
    bare = write_yaml(tmp_path / "b.yaml", {"gpus": 0})
    assert "it has none" in run_onetoken("plan", recipe, "--simulate", "--cluster", bare).said
    more = run_onetoken("plan", recipe, "--simulate", "--items", 2000, "--cluster", cluster)
    assert "2,000 items" in more.out
    assert "a machine fails every 50 h" in more.out
    for options in (("--items", 5), ("--simulate", "--corpus", tmp_path), ("--simulate", "--passes", 2)):
        ignored = run_onetoken("plan", recipe, *options)
        assert ignored.status == 2
        assert f"{options[-2]} changes nothing about the plan" in ignored.said
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
