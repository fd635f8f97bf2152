"""What `onetoken plan RECIPE` tells: sizes, hours, requests, and whether caching pays; nothing is written."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from infra.event_log import read_events
from infra.storage import open_storage
from jobs.console import Reporter
from jobs.options import read_configuration
from jobs.planning_actual import (
    actual_values,
    add_up_hours,
    cache_lines,
    hour_lines,
    list_caches,
    sample_lines,
    sample_reduced,
)
from jobs.planning_assumed import list_assumptions
from jobs.totals import in_table
from schemas.cluster import ClusterSpec
from schemas.recipe import CodecConfig, Recipe

if TYPE_CHECKING:
    from pipelines.analyze.build_plan import BuildPlan
    from pipelines.analyze.cache_size import ReducedSize
    from pipelines.analyze.calibrate import Calibration
    from pipelines.analyze.corpus_counts import CorpusCounts
    from pipelines.analyze.encoder_shape import FoundShape

CODECS = ("fp16", "int8", "compact")
TERA = 1e12
TEXT_TOKENS = 120
"""Of an example, in the plan of its training."""


def plan_recipe(
    recipe: Recipe,
    cluster_path: Path | None,
    corpus: str | None,
    events: Path | None,
    passes: int,
    reporter: Reporter,
) -> tuple[list[str], dict[str, object]]:
    """The plan in words and as plain values.

    Raises:
        ConfigError: neither a source of the recipe nor a corpus tells how much there is.
    """
    from operators.costs.shapes import VICUNA_7B
    from pipelines.analyze.build_plan import TrainedModel, plan_build
    from pipelines.analyze.cache_size import (
        BYTES_PER_HALF,
        measure_cached_view,
        measure_reduced,
        measure_view_bytes,
    )
    from pipelines.analyze.calibrate import calibrate
    from pipelines.analyze.corpus_counts import count_manifest, count_recipe
    from pipelines.analyze.encoder_shape import find_encoder_shape
    from pipelines.commit import load_manifest

    cluster = read_configuration(cluster_path, ClusterSpec) if cluster_path else ClusterSpec()
    storage = open_storage(corpus) if corpus else None
    manifest = load_manifest(storage) if storage else None
    counts = count_manifest(manifest) if manifest else count_recipe(recipe)
    found = find_encoder_shape(recipe.encoder.model)
    tower = found.shape
    reporter.say("measuring this machine for a minute")
    speed = calibrate(recipe.views, tower, with_encoder=not cluster.num_gpus)
    view_bytes = measure_cached_view(recipe, tower.patches, tower.width)
    model = TrainedModel(llm=VICUNA_7B, text_tokens=TEXT_TOKENS, tower=tower)
    clip_seconds = _count_clip_seconds(recipe, counts)
    plan = plan_build(counts, view_bytes, clip_seconds, speed, cluster, model, passes)
    sizes = {name: measure_view_bytes(CodecConfig(name=name), tower.patches, tower.width) for name in CODECS}
    reduced = list(measure_reduced(recipe.codec, tower.patches, tower.width))
    lines = [
        *_count_lines(plan),
        *_encoder_lines(recipe.encoder.model, found),
        *_size_lines(recipe, plan, sizes, reduced),
        *_work_lines(plan, cluster),
        *_verdict_lines(plan),
    ]
    values = _make_values(plan, sizes, reduced, speed)
    known = {"has_cluster": cluster_path is not None, "has_seconds": _has_seconds(recipe, counts)}
    assumed = [*list_assumptions(recipe, model, cluster, found, **known)]
    values["assumed"] = assumed
    lines += (f"assumed: {one}" for one in assumed)
    if storage and manifest and manifest.features:
        caches = list_caches(manifest, plan, BYTES_PER_HALF * tower.patches * tower.width)
        sample = sample_reduced(storage, manifest)
        logged = add_up_hours(read_events(events)) if events else None
        lines += [*cache_lines(caches), *sample_lines(sample), *hour_lines(plan, logged)]
        values["actual"] = actual_values(caches, sample, logged)
    return lines, values


def _count_clip_seconds(recipe: Recipe, counts: "CorpusCounts") -> float:
    """Of all clips: stated lengths; of an ingested corpus that states none of some, a second a view."""
    if _has_seconds(recipe, counts):
        stated = [source.counts for source in recipe.sources if source.counts]
        return sum(one.unique_videos * one.video_s for one in stated)
    return counts.videos.views / (recipe.views.video.fps or 1.0)


def _has_seconds(recipe: Recipe, counts: "CorpusCounts") -> bool:
    return not counts.is_exact or all(source.counts for source in recipe.sources)


def _count_lines(plan: "BuildPlan") -> Iterator[str]:
    counts = plan.counts
    origin = "as ingested" if counts.is_exact else "as the recipe states"
    yield f"corpus, {origin}: {counts.examples:,} examples about {counts.items:,} media"
    yield (
        f"  pictures {counts.images.uses:,} uses of {counts.images.unique:,}, "
        f"clips {counts.videos.uses:,} uses of {counts.videos.unique:,}"
    )
    saved = counts.naive_views / counts.views if counts.views else 1.0
    yield (
        f"  {counts.views:,} views to encode; {counts.naive_views:,} example by example, "
        f"{saved:.2f} times as many"
    )
    yield f"  {counts.shards:,} shards, {counts.media_bytes / TERA:.3f} TB of media"
    if counts.uncounted:
        yield f"  left out, for the recipe states no counts of them: {', '.join(counts.uncounted)}"


def _encoder_lines(name: str, found: "FoundShape") -> Iterator[str]:
    shape = found.shape
    origin = "not at hand, counted as ViT-L/14 at 336 pixels" if found.is_assumed else "as it is"
    yield f"  encoder {name}, {origin}: {shape.patches:,} patches of {shape.width:,} a view"


def _size_lines(
    recipe: Recipe, plan: "BuildPlan", sizes: dict[str, int], reduced: "list[ReducedSize]"
) -> Iterator[str]:
    views, naive = plan.counts.views, plan.counts.naive_views
    rows = [
        (name, f"{size:,}", f"{views * size / TERA:.3f}", f"{naive * size / TERA:.3f}")
        for name, size in sizes.items()
    ]
    yield from in_table(("codec", "bytes a view", "TB", "TB example by example"), rows)
    cells = [
        (
            one.name,
            _in_range(one.fewest_tokens, one.most_tokens),
            f"{100 * one.share[0]:.1f} to {100 * one.share[1]:.1f} %",
            f"{views * one.fewest_bytes / TERA:.3f} to {views * one.most_bytes / TERA:.3f}",
        )
        for one in reduced
    ]
    yield from in_table(("reduced cache", "tokens a view", "of the full one", "TB"), cells)
    if recipe.reducer:
        yield (
            f"this recipe reduces by {recipe.reducer.name}: at most {plan.view_bytes:,} bytes a view, "
            f"{views * plan.view_bytes / TERA:.3f} TB"
        )


def _work_lines(plan: "BuildPlan", cluster: ClusterSpec) -> Iterator[str]:
    cpu = ", ".join(f"{name} {hours:,.2f}" for name, hours in plan.cpu_hours.items())
    total = sum(plan.cpu_hours.values())
    cores = cluster.num_cpus
    yield f"CPU-core hours: {total:,.2f} ({cpu}); {total / cores:,.2f} h on {cores} cores"
    if cluster.num_gpus:
        hours = plan.encode_gpu_hours
        yield (
            f"GPU hours to encode: {hours:,.1f}; {hours / cluster.num_gpus:,.1f} h on {cluster.num_gpus} GPUs"
        )
        for stage, needed in plan.training_gpu_hours.items():
            yield (
                f"GPU hours to train {stage}, all examples: {needed:,.0f}; "
                f"{needed / cluster.num_gpus:,.1f} h on {cluster.num_gpus} GPUs"
            )
    yield f"S3 requests: {plan.puts:,} PUT and the like, {plan.gets:,} GET"


def _verdict_lines(plan: "BuildPlan") -> Iterator[str]:
    even = plan.break_even
    yield (
        f"cached, {even.passes} passes: {even.cached_gpu_h:,.1f} GPU hours and {even.cached_cpu_h:,.1f} core "
        f"hours of encoding; live: {even.live_gpu_h:,.1f} and {even.live_cpu_h:,.1f}"
    )
    if even.cached_price:
        yield f"  price: {even.cached_price:,.2f} once, against {even.live_price:,.2f} a pass"
    yield f"  training reads {even.read_gb_s:.2f} GB/s, the network gives {even.network_gb_s:.2f}"
    if even.pays:
        yield f"caching pays from {even.first_paying_pass} passes on"
    elif even.cached_is_slower:
        yield (
            "caching does not pay: the network brings features more slowly than the GPUs would make them; "
            "use a smaller codec, a reducer, or disks of the machines"
        )
    else:
        yield f"caching does not pay: {even.first_paying_pass} passes would have to use it"


def _make_values(
    plan: "BuildPlan", sizes: dict[str, int], reduced: "list[ReducedSize]", speed: "Calibration"
) -> dict[str, object]:
    values: dict[str, object] = asdict(plan)
    views = plan.counts.views
    return values | {
        "items": plan.counts.items,
        "views": views,
        "naive_views": plan.counts.naive_views,
        "codec_bytes": {name: views * size for name, size in sizes.items()},
        "reduced": {one.name: asdict(one) | {"share": one.share} for one in reduced},
        "calibration": asdict(speed),
        "caching_pays": plan.break_even.pays,
    }


def _in_range(fewest: int, most: int) -> str:
    return f"{fewest}" if fewest == most else f"{fewest} to {most}"
