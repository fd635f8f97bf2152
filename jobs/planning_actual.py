"""What became of a plan: caches, hours and steps that were measured, beside what was planned.

Bytes and views stand in the corpus, hours in the log that `--events` wrote, memory and seconds of training
in `metrics.jsonl`. What none of them tells is said to be unknown.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from jobs.totals import in_table
from schemas.events import Counted, EncoderUsed, Event, UnitDone

if TYPE_CHECKING:
    from infra.storage import Storage
    from pipelines.analyze.build_plan import BuildPlan
    from pipelines.analyze.reduced_sample import SampledSize
    from schemas.corpus import Manifest

HOUR_S: Final = 3600.0
INGEST: Final = frozenset({"scan", "probe", "read", "group"})
UNKNOWN: Final = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheOutcome:
    """One cache of a corpus."""

    spec: str
    views: int
    planned_views: int
    num_bytes: int
    planned_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedHours:
    """Hours in which workers, decoders and encoders were busy; None: the log does not tell.

    Wall time of workers: an upper bound of what their cores did, and on a busy machine far above it.
    """

    ingest: float | None
    shard: float | None
    decode: float | None
    encode: float | None
    views: int
    """That the log saw encoded; those of an earlier run, and copied ones, cost nothing here."""


def list_caches(manifest: "Manifest", plan: "BuildPlan", fp16_bytes: int) -> list[CacheOutcome]:
    """Every cache, beside what this plan says of its views; `fp16_bytes` are those of a view's patches."""
    return [
        CacheOutcome(
            spec=digest,
            views=features.num_views,
            planned_views=plan.counts.views,
            num_bytes=sum(shard.tar.num_bytes for shard in features.shards),
            planned_bytes=round(features.num_fp16_bytes * plan.view_bytes / fp16_bytes),
        )
        for digest, features in manifest.features.items()
    ]


def sample_reduced(storage: "Storage", manifest: "Manifest") -> "list[SampledSize]":
    """What reducers leave of the latest cache of all patches; nothing where there is none."""
    from pipelines.analyze.reduced_sample import measure_on_cache
    from pipelines.commit import parse_stored, read_object
    from schemas.feature import FeatureSpec

    newest_first = sorted(manifest.features.items(), key=lambda pair: -pair[1].ordinal)
    for digest, features in newest_first:
        spec = parse_stored(read_object(storage, features.spec), FeatureSpec, features.spec.path)
        if spec.reducer == "none" and features.num_views:
            return measure_on_cache(storage, manifest, digest)
    return []


def add_up_hours(events: Iterable[Event]) -> LoggedHours:
    """The hours of all runs that a log tells of."""
    seconds: defaultdict[str, float] = defaultdict(float)
    views = 0
    for event in events:
        match event:
            case UnitDone():
                seconds["ingest" if event.stage in INGEST else event.stage] += event.seconds
            case EncoderUsed():
                seconds["decode"] += event.decoders_busy_s
                seconds["encode"] += event.busy_s
            case Counted():
                views += event.num_views - event.num_views_reused
            case _:
                pass
    hours = {name: spent / HOUR_S for name, spent in seconds.items()}
    return LoggedHours(
        ingest=hours.get("ingest"),
        shard=hours.get("shard"),
        decode=hours.get("decode"),
        encode=hours.get("encode"),
        views=views,
    )


def cache_lines(caches: list[CacheOutcome]) -> Iterator[str]:
    """A line for each cache."""
    for one in caches:
        yield (
            f"spec {one.spec}: {one.views:,} views, planned {one.planned_views:,}; "
            f"{one.num_bytes / 1e6:,.1f} MB, planned {one.planned_bytes / 1e6:,.1f}"
        )


def sample_lines(sizes: "list[SampledSize]") -> Iterator[str]:
    """What reducers leave, measured."""
    if not sizes:
        return
    rows = [(one.name, f"{one.tokens:,.1f}", f"{100 * one.share:.1f} %") for one in sizes]
    num_views = sizes[0].num_views
    yield from in_table(
        (f"measured on {num_views} views of the cache", "tokens a view", "of the full one"), rows
    )


def hour_lines(plan: "BuildPlan", logged: LoggedHours | None) -> Iterator[str]:
    """Hours by kind of work, planned and logged."""
    if logged is None:
        yield "hours of the build: unknown; build with --events FILE, and name the file here"
        return
    rows = [(name, *cells) for name, cells in _compare_hours(plan, logged).items()]
    yield from in_table((f"hours, {logged.views:,} views in the log", "planned", "busy"), rows)


def actual_values(
    caches: list[CacheOutcome], sizes: "list[SampledSize]", logged: LoggedHours | None
) -> dict[str, object]:
    """All of it as plain values."""
    return {
        "caches": [asdict(one) for one in caches],
        "reduced": {one.name: asdict(one) | {"share": one.share} for one in sizes},
        "hours": asdict(logged) if logged else None,
    }


def _compare_hours(plan: "BuildPlan", logged: LoggedHours) -> dict[str, tuple[str, str]]:
    planned = plan.cpu_hours | ({"encode": plan.encode_gpu_hours} if plan.encode_gpu_hours else {})
    busy = asdict(logged)
    return {name: (f"{hours:,.4f}", _in_hours(busy[name])) for name, hours in planned.items()}


def _in_hours(hours: float | None) -> str:
    return UNKNOWN if hours is None else f"{hours:,.4f}"
