"""The account of an ingest: what was read was written, rejected or not taken, or nothing is published."""

from collections import Counter
from collections.abc import Mapping, Sequence

from pipelines.ingest.counts import SourceCounts
from pipelines.ingest.group import GroupResult
from pipelines.ingest.plan import join_buckets
from pipelines.ingest.read import ReadResult, ReadUnit
from schemas.corpus import Manifest, ObjectEntry, SourceTotals
from schemas.errors import FatalError, RejectCode
from schemas.recipe import Recipe


def account_ingest(
    recipe: Recipe, units: Sequence[ReadUnit], read: Sequence[ReadResult], groups: Sequence[GroupResult]
) -> Manifest:
    """The manifest of what all stages brought.

    Raises:
        FatalError: when a record is neither written nor rejected nor left out by `take`, or is two of these.
    """
    rejects: dict[str, Counter[str]] = {}
    files: dict[str, dict[str, int]] = {}
    taken = Counter[str]()
    for unit, result in zip(units, read, strict=True):
        source, name = unit.range.input.source, unit.range.input.name
        rejects.setdefault(source, Counter()).update(result.rejects)
        rows = files.setdefault(source, {})
        rows[name] = rows.get(name, 0) + unit.range.num_rows
        taken[source] += unit.range.num_taken
    counts = count_by_source(groups)
    sources = [
        total_source(
            SourceTotals(
                name=config.name,
                files=files.get(config.name, {}),
                read=sum(files.get(config.name, {}).values()),
                taken=taken[config.name],
                rejects=rejects.get(config.name, {}),
                reject_budget=config.reject_budget,
            ),
            counts.get(config.name, SourceCounts()),
        )
        for config in recipe.sources
    ]
    return describe_corpus(recipe, sources, [entry for result in read for entry in result.quarantine], groups)


def describe_corpus(
    recipe: Recipe,
    sources: list[SourceTotals],
    quarantine: Sequence[ObjectEntry],
    groups: Sequence[GroupResult],
) -> Manifest:
    """The manifest of tables that were grouped."""
    rejected = [*quarantine, *(entry for group in groups for entry in group.quarantine)]
    return Manifest(
        name=recipe.name,
        ingest_digest=recipe.ingest_digest,
        sources=sources,
        num_media=sum(group.num_media for group in groups),
        num_media_bytes=sum(group.num_media_bytes for group in groups),
        num_media_uses=sum(group.num_media_uses for group in groups),
        media_digest=f"{sum(group.key_sum for group in groups):x}",
        examples=[group.examples for group in groups if group.examples],
        media=[group.media for group in groups if group.media],
        quarantine=sorted(rejected, key=lambda entry: entry.path),
        plan=join_buckets({group.bits: group.trees for group in groups}, recipe.shards),
    )


def count_by_source(groups: Sequence[GroupResult]) -> dict[str, SourceCounts]:
    """What each source has in all buckets."""
    counts: dict[str, SourceCounts] = {}
    for group in groups:
        for name, inside in group.sources.items():
            counts.setdefault(name, SourceCounts()).add(inside)
    return counts


def total_source(
    totals: SourceTotals, counts: SourceCounts, repairs: Mapping[str, int] | None = None
) -> SourceTotals:
    """The totals of a source, completed by what grouping counted.

    Args:
        totals: with the rejects of reading.
        counts: what is written, and which records turned out to be duplicates.
        repairs: of examples that were written before.

    Raises:
        FatalError: when they do not balance.
    """
    rejects = Counter(totals.rejects)
    if counts.duplicates:
        rejects[RejectCode.DUPLICATE_RECORD.value] += counts.duplicates
    if totals.taken != counts.written + rejects.total():
        raise FatalError(
            f"source {totals.name}: {totals.taken} records were taken, but {counts.written} written and "
            f"{rejects.total()} rejected; this is a fault of the program, nothing was published"
        )
    repaired = Counter(repairs or {}) + Counter(counts.repairs)
    return totals.model_copy(
        update={
            "written": counts.written,
            "rejected": rejects.total(),
            "rejects": dict(sorted(rejects.items())),
            "repairs": dict(sorted(repaired.items())),
            "num_media": counts.media,
            "num_unique_media": counts.unique_media,
            "num_media_bytes": counts.media_bytes,
            "num_unique_media_bytes": counts.unique_media_bytes,
        }
    )
