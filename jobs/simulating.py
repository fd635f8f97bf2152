"""`onetoken plan RECIPE --simulate`: a recipe's build, or one of any size, on machines that fail."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.console import Reporter
from jobs.options import read_configuration
from schemas.cluster import ClusterSpec
from schemas.errors import ConfigError
from schemas.recipe import Recipe

if TYPE_CHECKING:
    from pipelines.analyze.simulated_cluster import ClusterModel
    from pipelines.analyze.simulation import SimulatedJob, SimulatedRun

NODES = 1000
MEAN_IMAGE_BYTES = 120_000
HOUR_S = 3600
MAX_SHARDS = 1_000_000
"""A manifest names every shard: of more it would take gigabytes, and this process five times as many."""


def simulate_recipe(
    recipe: Recipe, cluster_path: Path | None, items: int | None, reporter: Reporter
) -> tuple[list[str], dict[str, object]]:
    """The simulated build in words and as plain values.

    Raises:
        ConfigError: neither the recipe nor `items` tells how much there is; its shards are too small for it;
            the cluster has no GPUs.
    """
    from pipelines.analyze.build_plan import seconds_of_view
    from pipelines.analyze.corpus_counts import count_recipe
    from pipelines.analyze.encoder_shape import find_encoder_shape
    from pipelines.analyze.simulated_cluster import ClusterModel
    from pipelines.analyze.simulation import SimulatedJob, simulate
    from pipelines.ingest.plan import count_views
    from schemas.record import MediumKind

    spec = read_configuration(cluster_path, ClusterSpec) if cluster_path else ClusterSpec(nodes=NODES, gpus=8)
    if not spec.gpus:
        raise ConfigError(
            "a build is simulated on the GPUs of a cluster, a worker each, and it has none: set `gpus`"
        )
    model = ClusterModel(
        nodes=spec.nodes, slots=spec.gpus, mean_time_to_failure_s=HOUR_S * spec.hours_to_failure
    )
    tower = find_encoder_shape(recipe.encoder.model).shape
    num_items, item_bytes = items, MEAN_IMAGE_BYTES
    views = float(count_views(MediumKind.IMAGE, 0.0, recipe.views))
    if num_items is None:
        counts = count_recipe(recipe)
        num_items = max(1, counts.items)
        item_bytes, views = counts.media_bytes // num_items, counts.views / num_items
    job = SimulatedJob(
        items=num_items,
        views_per_item=max(1, round(views)),
        item_bytes=max(1, item_bytes),
        view_s=seconds_of_view(spec, tower),
        limits=recipe.shards,
        cluster=model,
    )
    _check_shards(job)
    run = simulate(job, reporter)
    values: dict[str, object] = asdict(run)
    assumed = {"view_s": job.view_s} | asdict(model)
    return [*_simulation_lines(run, model), _tell_assumed(job)], values | {"assumed": assumed}


def _check_shards(job: "SimulatedJob") -> None:
    """Halving stops between the limits and half of them, so shards are up to twice as many as would do."""
    limits = job.limits
    fewest = job.items * max(job.item_bytes / limits.max_bytes, job.views_per_item / limits.max_views)
    if 2 * fewest > MAX_SHARDS:
        raise ConfigError(
            f"{job.items:,} items would be up to {2 * fewest:,.0f} shards, and a manifest should name "
            f"no more than {MAX_SHARDS:,}: raise `shards.max_bytes` and `shards.max_views` of the recipe"
        )


def _tell_time(seconds: float) -> str:
    return f"{seconds / HOUR_S:,.2f} h" if seconds >= HOUR_S else f"{seconds:,.0f} s"


def _tell_assumed(job: "SimulatedJob") -> str:
    model = job.cluster
    return (
        f"  assumed: a view takes a GPU {1000 * job.view_s:.2g} ms; a machine fails every "
        f"{model.mean_time_to_failure_s / HOUR_S:,.0f} h and is away for {model.repair_s / 60:.0f} min, one "
        f"of {1 / model.cut_share:.0f} is only cut off; a worker starts in {model.start_s:.0f} s"
    )


def _simulation_lines(run: "SimulatedRun", model: "ClusterModel") -> list[str]:
    return [
        f"{run.items:,} items in {run.shards:,} shards on {model.nodes:,} simulated machines "
        f"of {model.slots} GPUs",
        f"  {_tell_time(run.build_s)}; without starts, failures and tail {_tell_time(run.ideal_s)}",
        f"  tail: {run.tail_s:,.0f} s from 99 % of the shards to the last",
        f"  commits a second: {run.commits_per_s:,.1f}, at most {run.most_commits_per_s:,.1f}",
        f"  {run.failures:,} machines failed, {run.cut:,} of them only cut off: "
        f"{100 * run.lost_share:.3f} % of the work was lost, {100 * run.repeated_share:.3f} % done twice",
        f"  this process: {run.peak_bytes / 2**30:.2f} GiB, {run.cpu_s:,.0f} s of CPU; "
        f"{run.plan_wall_s:,.0f} s to plan, {run.run_wall_s:,.0f} s to dispatch and commit, "
        f"{run.publish_wall_s:,.0f} s to publish a manifest of {run.manifest_bytes / 2**20:,.1f} MiB",
    ]
