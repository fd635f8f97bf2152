"""Plans on counts small enough to work out by hand, and counts against what sharding really makes."""

from dataclasses import replace

import numpy as np
import pytest

from operators.costs.flops import count_tower
from operators.costs.shapes import CLIP_L_336, VICUNA_7B
from pipelines.analyze.build_plan import TrainedModel, count_training_flops, plan_build
from pipelines.analyze.cache_size import measure_reduced, measure_view_bytes
from pipelines.analyze.calibrate import Calibration, calibrate, time_work
from pipelines.analyze.corpus_counts import CorpusCounts, MediaCounts, count_recipe, estimate_leaves
from pipelines.ingest.plan import PlannedItems, plan_bucket
from schemas.cluster import ClusterSpec
from schemas.configuration import build
from schemas.errors import ConfigError
from schemas.recipe import CodecConfig, Recipe, ShardLimits, ViewsConfig
from schemas.record import Modality

MODEL = TrainedModel(llm=VICUNA_7B, text_tokens=60)
SPEED = Calibration(record_s=1e-3, picture_s=0.36, clip_second_s=0.01, byte_s=1e-6, view_s=7.2)
PRICES = {"cpu_hour": 1.0, "gpu_hour": 10.0, "tb_month": 1000.0}


def pictures(unique: int, uses: int) -> CorpusCounts:
    images = MediaCounts(uses=uses, unique=unique, num_bytes=unique * 1000, views=5 * unique)
    return CorpusCounts(examples=uses, images=images, videos=MediaCounts(), shards=10, is_exact=False)


def plan(counts: CorpusCounts, passes: int, **cluster: object):
    spec = build({"gpu_tflops": 100.0, "encoding_share": 0.5} | cluster, ClusterSpec, "test")
    return plan_build(counts, 1_000_000, 0.0, SPEED, spec, MODEL, passes)


def recipe(**counts: object) -> Recipe:
    source = {"name": "a", "format": "llava", "annotations": "a.json", "counts": counts}
    return build({"name": "r", "sources": [source]}, Recipe, "test")


def test_counts_of_a_recipe() -> None:
    stated = recipe(examples=30, images=20, unique_images=5, videos=6, unique_videos=3, video_s=9.5)
    counts = count_recipe(stated)
    assert (counts.items, counts.examples, counts.is_exact) == (8, 30, False)
    assert (counts.images.views, counts.videos.views) == (25, 30)
    assert counts.naive_views == 4 * 25 + 2 * 30
    assert counts.media_bytes == 5 * 120_000 + 3 * 8_000_000


def test_counts_must_be_stated() -> None:
    bare = build(
        {"name": "r", "sources": [{"name": "a", "format": "llava", "annotations": "a.json"}]}, Recipe, "t"
    )
    with pytest.raises(ConfigError, match="counts"):
        count_recipe(bare)
    with pytest.raises(ConfigError, match="unique"):
        recipe(examples=1, images=1, unique_images=2)


def test_sources_without_counts_are_named_and_left_out() -> None:
    stated = recipe(examples=30, images=20, unique_images=5)
    unknown = {"name": "b", "format": "llava", "annotations": "b.json"}
    both = build({"name": "m", "sources": [*stated.model_dump()["sources"], unknown]}, Recipe, "r")
    counts = count_recipe(both)
    assert counts.uncounted == ("b",)
    assert replace(counts, uncounted=()) == count_recipe(stated)


def test_counts_do_not_change_a_corpus() -> None:
    assert recipe(examples=1).ingest_digest == recipe(examples=2).ingest_digest


@pytest.mark.parametrize("num_items", [1, 90, 1000, 5000])
def test_leaves_are_estimated_like_the_real_plan(num_items: int) -> None:
    """The real tree splits unevenly, by chance: at most twice as many leaves, and not fewer than half."""
    generator = np.random.default_rng(num_items)
    keys = np.sort(generator.integers(0, 2**64, num_items, dtype=np.uint64))
    items = PlannedItems(
        modality=Modality.IMAGE,
        keys=np.stack([keys, keys], axis=1),
        num_media_bytes=np.full(num_items, 1000, np.int64),
        num_views=np.full(num_items, 5, np.int64),
    )
    limits = ShardLimits(max_bytes=200_000, max_views=600)
    real = len(plan_bucket(items, "", limits).leaves)
    media = MediaCounts(uses=num_items, unique=num_items, num_bytes=1000 * num_items, views=5 * num_items)
    assert real / 2 <= estimate_leaves(media, limits) <= 2 * real


def test_hours_by_hand() -> None:
    found = plan(pictures(1000, 1000), 3)
    assert found.cpu_hours["ingest"] == pytest.approx(2 * 1000 * 1e-3 / 3600)
    assert found.cpu_hours["shard"] == pytest.approx(1000 * 1000 * 2e-6 / 3600)
    assert found.cpu_hours["decode"] == pytest.approx(0.1)
    encode_s = 5000 * count_tower(CLIP_L_336).total / 50e12
    assert found.encode_gpu_hours == pytest.approx(encode_s / 3600)
    assert found.feature_bytes == 5 * 10**9
    stage2 = 2 * 1000 * count_training_flops(MODEL, 1.0, 2) / (100e12 * 0.4)
    assert found.training_gpu_hours["stage 2"] == pytest.approx(stage2 / 3600)


def test_training_flops_are_those_of_the_paper_with_their_backward_pass() -> None:
    """Forward 8.99 T (stage 1), 2.27 - 0.38 T (stage 2, 60 tokens), all with attention."""
    assert count_training_flops(MODEL, 1.0, 1) / 1e12 == pytest.approx(2 * 8.64, rel=0.01)
    assert count_training_flops(MODEL, 1.0, 2) / 1e12 == pytest.approx(3 * 1.887, rel=0.01)
    assert count_training_flops(MODEL, 0.0, 2) < count_training_flops(MODEL, 1.0, 2)
    eight = count_training_flops(MODEL, 8.0, 2)
    assert eight > 4 * count_training_flops(MODEL, 1.0, 2)


def test_a_machine_without_gpu_encodes_on_its_cores() -> None:
    found = plan(pictures(1000, 1000), 3, gpus=0)
    assert found.cpu_hours["encode"] == pytest.approx(10)
    assert (found.encode_gpu_hours, found.training_gpu_hours) == (0, {})
    assert found.break_even.cached_cpu_h == pytest.approx(10.1)
    assert found.break_even.first_paying_pass == 1


def test_without_reuse_and_for_one_pass_keeping_costs_more_than_encoding() -> None:
    found = plan(pictures(1000, 1000), 1, prices=PRICES).break_even
    once = found.cached_gpu_h * 10 + found.cached_cpu_h
    kept = 5e9 / 1e12 * 1000
    assert found.cached_price == pytest.approx(once + kept)
    assert found.live_price == pytest.approx(once)
    assert found.first_paying_pass == int(np.ceil((once + kept) / once)) > 1
    assert not found.pays
    assert plan(pictures(1000, 1000), found.first_paying_pass, prices=PRICES).break_even.pays


def test_reuse_pays_sooner() -> None:
    one = plan(pictures(1000, 1000), 1, prices=PRICES).break_even
    many = plan(pictures(1000, 10_000), 1, prices=PRICES).break_even
    assert many.live_price == pytest.approx(10 * one.live_price)
    assert many.first_paying_pass < one.first_paying_pass


def test_a_slow_network_is_told() -> None:
    slow = plan(pictures(1000, 1000), 100, network_gb_s=1e-4).break_even
    assert slow.cached_is_slower
    assert not slow.pays
    assert plan(pictures(1000, 1000), 100, network_gb_s=100.0).break_even.pays


def test_requests_by_hand() -> None:
    """Ten shards: media of 100 KB go in one PUT, features of 500 MB in parts; each with index and commit."""
    found = plan(pictures(1000, 2000), 2)
    parts = 2 + -(-500_000_000 // (32 << 20))
    assert found.puts == 10 * (2 + 1) + 10 * (2 + parts)
    assert found.gets == 10 * (2 + 1) + 2 * 2000


def test_sizes_are_those_that_the_codecs_write() -> None:
    full = {name: measure_view_bytes(CodecConfig(name=name)) for name in ("fp16", "int8", "compact")}
    assert full["fp16"] == 576 * 1024 * 2 + 2048
    assert 0.54 < full["int8"] / full["fp16"] < 0.56
    assert 0.25 < full["compact"] / full["fp16"] < 0.36
    reduced = {one.name: one for one in measure_reduced(CodecConfig(name="fp16"))}
    assert reduced["prumerge_plus"].most_bytes == 144 * 2048 + 2048
    assert reduced["prumerge"].share[0] < 0.05 < reduced["prumerge"].share[1] < 0.26


def test_a_calibration_measures_something() -> None:
    found = calibrate(ViewsConfig(), with_encoder=False, short_s=0.0)
    assert min(found.record_s, found.picture_s, found.clip_second_s, found.byte_s) > 0
    assert found.picture_s > found.record_s
    assert (found.view_s, found.gpu_views_per_s) == (0.0, None)


def test_work_is_timed_by_call() -> None:
    calls: list[int] = []
    assert time_work(lambda: calls.append(1), 0.01) < 0.01
    assert len(calls) > 2
