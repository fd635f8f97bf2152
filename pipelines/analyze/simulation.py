"""A build of any size without machines: the product's planner, dispatcher, commits and manifest at scale.

Only the clock and the work are replaced (`simulated_cluster`): items are random keys, a unit takes as long as
its views would, and what it writes is its commit record. All else is what a real build runs: the tree over
keys, hiring and requeueing, exclusive commits that must agree, the manifest that names every shard. Above
`MAX_KEYS` items a key stands for several of them, so that drawing keys does not take longer than the rest.

What it tells: how long the cluster takes and how long its tail is, what is done twice, how fast units are
committed, and what this process needs for it in memory and in time of its own. Everything is held by this
process, the committed records among it, which in a build are the storage's.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from infra.machine import read_peak_bytes
from pipelines.analyze.memory_storage import MemoryStorage
from pipelines.analyze.simulated_cluster import ClusterModel, ClusterTotals, SimulatedCrew
from pipelines.commit import commit, publish_manifest
from pipelines.dispatch import Dispatch
from pipelines.engine import UNIT_LIMIT_S, Progress, no_progress
from pipelines.ingest.plan import Bucket, PlannedItems, join_buckets, plan_bucket
from pipelines.ingest.tables import choose_item_bits
from pipelines.shard.done import LeafDone, list_shard
from pipelines.shard.write import unit_name
from schemas.corpus import CommitRecord, Manifest, ObjectEntry, ShardEntry, commit_path
from schemas.digest import sha256_hex
from schemas.plan import Leaf, ShardPlan
from schemas.recipe import ShardLimits
from schemas.record import Modality

MAX_KEYS: Final = 20_000_000
TAIL_SHARE: Final = 0.99
MINUTE_S: Final = 60.0
PROGRESS_EVERY: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedJob:
    """What is built."""

    items: int
    views_per_item: int = 5
    item_bytes: int = 120_000
    view_s: float = 0.004
    """Of a worker, for one view."""
    limits: ShardLimits = field(default_factory=ShardLimits)
    cluster: ClusterModel = field(default_factory=ClusterModel)
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedRun:
    """What it came to; seconds are those of the simulated clock unless said otherwise."""

    items: int
    shards: int
    build_s: float
    ideal_s: float
    """All work that counts, on all workers, without their starts, failures and tail."""
    tail_s: float
    """From 99 % of the units to the last."""
    commits_per_s: float
    """On average."""
    most_commits_per_s: float
    """Over the best minute, or over a build that takes less."""
    failures: int
    cut: int
    lost_share: float
    """Work that died with machines, of all that counts."""
    repeated_share: float
    """Work whose unit was committed already, likewise."""
    manifest_bytes: int
    peak_bytes: int
    """Of this process, everything."""
    cpu_s: float
    """Of this process, for all of it."""
    plan_wall_s: float
    run_wall_s: float
    publish_wall_s: float


@dataclass(frozen=True, slots=True)
class Part:
    """One item of a leaf, run by itself since the leaf's workers died twice; it commits nothing."""

    num_views: float


def simulate(job: SimulatedJob, progress: Progress = no_progress) -> SimulatedRun:
    """Plan, run and publish."""
    started_s, started_cpu_s = time.monotonic(), time.process_time()
    plan = plan_keys(job)
    planned_s = time.monotonic()
    storage = MemoryStorage()
    crew = SimulatedCrew(job.cluster, make_work(storage), lambda leaf: leaf.num_views * job.view_s)
    shards, finished_s = _dispatch(crew, plan, progress)
    ran_s = time.monotonic()
    manifest = _make_manifest(job, plan, [shards[place] for place in range(len(plan))])
    publish_manifest(storage, manifest, derived_from=None)
    published_s = time.monotonic()
    return SimulatedRun(
        items=job.items,
        shards=len(plan),
        **_summarize(crew.totals, crew.num_slots, finished_s),
        manifest_bytes=sum(one.num_bytes for one in storage.list_objects("manifests")),
        peak_bytes=read_peak_bytes(),
        cpu_s=time.process_time() - started_cpu_s,
        plan_wall_s=planned_s - started_s,
        run_wall_s=ran_s - planned_s,
        publish_wall_s=published_s - ran_s,
    )


def plan_keys(job: SimulatedJob) -> ShardPlan:
    """The product's plan over random keys, bucket by bucket as ingest makes it."""
    weight = -(-job.items // MAX_KEYS)
    bits = choose_item_bits(job.items)
    num_keys = np.random.default_rng(job.seed).multinomial(job.items // weight, [0.5**bits] * 2**bits)
    buckets: dict[str, dict[Modality, Bucket]] = {}
    for number, count in enumerate(num_keys):
        prefix = f"{number:0{bits}b}" if bits else ""
        items = _draw_items(job, number, bits, int(count), weight)
        buckets[prefix] = {Modality.IMAGE: plan_bucket(items, prefix, job.limits)}
    return join_buckets(buckets, job.limits)


def make_work(storage: MemoryStorage) -> Callable[[Leaf | Part], tuple[LeafDone | None, bool]]:
    """What a worker does when a leaf is finished: commit it; and whether that is work that counts."""

    def work(leaf: Leaf | Part) -> tuple[LeafDone | None, bool]:
        if isinstance(leaf, Part):
            return None, False
        digest = sha256_hex(leaf.name.encode())
        objects = [
            ObjectEntry(
                path=f"shards/{leaf.name}-{digest[:16]}.{ending}",
                sha256=digest,
                num_bytes=leaf.num_media_bytes,
                num_rows=leaf.num_items,
            )
            for ending in ("tar", "idx")
        ]
        record = CommitRecord(
            unit=unit_name(leaf), fingerprint=digest, objects=objects, counts={"items": leaf.num_items}
        )
        is_first = not storage.exists(commit_path(record.unit, digest))
        for entry in objects:
            storage.create(entry.path, b"")
        return LeafDone(commit(storage, record), is_first), is_first

    return work


def _draw_items(job: SimulatedJob, number: int, bits: int, count: int, weight: int) -> PlannedItems:
    """Sorted random keys: sums of exponential steps, divided by their sum, are uniform and in order."""
    random = np.random.default_rng((job.seed, number))
    steps = np.cumsum(random.exponential(size=count + 1))
    low = (steps[:-1] / steps[-1] * 2.0 ** (63 - bits)).astype(np.uint64) << np.uint64(1)
    leading = low | np.uint64(number << (64 - bits) if bits else 0)
    return PlannedItems(
        modality=Modality.IMAGE,
        keys=np.stack([leading, np.zeros_like(leading)], axis=1),
        num_media_bytes=np.full(count, weight * job.item_bytes, np.int64),
        num_views=np.full(count, weight * job.views_per_item, np.int64),
    )


def _dispatch(
    crew: SimulatedCrew, plan: ShardPlan, progress: Progress
) -> tuple[dict[int, ShardEntry], list[float]]:
    """Every unit, by the product's dispatcher; the shards, and when each came home."""
    dispatch = Dispatch(
        crew, _Specification(), plan, unit_limit_s=UNIT_LIMIT_S, stage="simulate", clock=crew.clock
    )
    shards: dict[int, ShardEntry] = {}
    finished_s: list[float] = []
    for index, done in dispatch.results():
        shards[index] = list_shard(plan[index], done.record)
        finished_s.append(crew.now_s)
        if len(shards) % PROGRESS_EVERY == 0 or len(shards) == len(plan):
            progress("simulate", len(shards), len(plan))
    return shards, finished_s


class _Specification:
    """Stands where a worker's specification stands: says how a leaf is taken apart, as the real one does."""

    def build(self) -> Callable[[Any], Any]:
        """Never called: simulated workers are built nowhere."""
        raise NotImplementedError

    def divide(self, unit: Leaf) -> list[Part]:
        """See `Divisible.divide`."""
        return [Part(unit.num_views / unit.num_items)] * unit.num_items

    def exclude(self, unit: Leaf, killers: Sequence[Part]) -> Leaf:
        """See `Divisible.exclude`; which items would be rejected makes no difference here."""
        return unit


def _make_manifest(job: SimulatedJob, plan: ShardPlan, shards: list[ShardEntry]) -> Manifest:
    return Manifest(
        name="simulated",
        ingest_digest="",
        sources=[],
        num_media=job.items,
        num_media_bytes=job.items * job.item_bytes,
        num_media_uses=job.items,
        media_digest="",
        examples=[],
        media=[],
        quarantine=[],
        plan=plan,
        shards=shards,
    )


def _summarize(totals: ClusterTotals, num_slots: int, finished_s: list[float]) -> dict[str, Any]:
    ends = np.sort(np.array(finished_s))
    build_s = float(ends[-1]) if len(ends) else 0.0
    window_s = min(MINUTE_S, build_s)
    in_window = np.searchsorted(ends, ends + window_s, side="right") - np.arange(len(ends))
    return {
        "build_s": build_s,
        "ideal_s": totals.done_s / num_slots,
        "tail_s": build_s - float(ends[int(TAIL_SHARE * (len(ends) - 1))]) if len(ends) else 0.0,
        "commits_per_s": len(ends) / build_s if build_s else 0.0,
        "most_commits_per_s": float(in_window.max()) / window_s if build_s else 0.0,
        "failures": totals.failures,
        "cut": totals.cut,
        "lost_share": totals.lost_s / totals.done_s if totals.done_s else 0.0,
        "repeated_share": totals.repeated_s / totals.done_s if totals.done_s else 0.0,
    }
