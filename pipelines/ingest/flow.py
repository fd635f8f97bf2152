"""Ingest: annotations and media in, tables of examples, media and rejects out, every record accounted for.

    annotation files -> rows -> records -> probe (engine) -> examples, media, quarantine -> manifest

Reading annotations happens here, in one process; everything that opens media goes through the engine.
Nothing is visible before the manifest is: an ingest that was killed is started again from the beginning.
Where neither examples nor media differ from the manifest in force, its shards and features are kept.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from infra.storage import Storage
from pipelines.commit import load_manifest, publish_manifest
from pipelines.engine import Engine, Progress, no_progress, run_in_order
from pipelines.ingest import tables
from pipelines.ingest.group import Groups, group_records
from pipelines.ingest.media import locate_media
from pipelines.ingest.probe import ProbeSpec, collect_findings, plan_probes, request_medium
from pipelines.ingest.records import SourceRecords, read_source
from schemas.corpus import Manifest, SourceTotals
from schemas.errors import FatalError, NotFoundError
from schemas.recipe import Recipe
from schemas.record import Reject


def ingest(recipe: Recipe, storage: Storage, engine: Engine, progress: Progress = no_progress) -> Manifest:
    """Read what a recipe names and publish the manifest of its examples and media.

    Annotation paths and media roots start from the current folder.

    Raises:
        ConfigError: when something that the recipe names is not there.
        CorruptError: when an annotation file is broken between rows.
    """
    here = Path.cwd()
    media_sources = locate_media(recipe.sources, here)
    sources = _read_sources(recipe, here, progress)
    parsed = [one for source in sources for one in source.parsed]

    embedded = frozenset(source.name for source in media_sources if source.is_embedded)
    requests = (request_medium(one.record) for one in parsed)
    units = plan_probes((request for request in requests if request), embedded)
    results = run_in_order(engine, ProbeSpec(media_sources), units, "probe", progress)

    deduplicated = frozenset(config.name for config in recipe.sources if config.deduplicate)
    groups = group_records(parsed, collect_findings(units, results), deduplicated)
    manifest = _write_tables(recipe, storage, sources, groups)
    publish_manifest(storage, manifest)
    return manifest


def _read_sources(recipe: Recipe, here: Path, progress: Progress) -> list[SourceRecords]:
    sources: list[SourceRecords] = []
    progress("annotations", 0, len(recipe.sources))
    for config in recipe.sources:
        sources.append(read_source(config, here))
        progress("annotations", len(sources), len(recipe.sources))
    return sources


def _write_tables(
    recipe: Recipe, storage: Storage, sources: Sequence[SourceRecords], groups: Groups
) -> Manifest:
    rejects = [*groups.rejects, *(reject for source in sources for reject in source.rejects)]
    media = groups.media.values()
    manifest = Manifest(
        name=recipe.name,
        ingest_digest=recipe.ingest_digest,
        sources=count_records(sources, groups, rejects),
        num_media=len(media),
        num_media_bytes=sum(row.facts.num_bytes for row in media),
        num_media_uses=sum(row.times_used for row in media),
        examples=tables.write_examples(storage, groups.examples),
        media=tables.write_media(storage, media),
        quarantine=tables.write_quarantine(storage, rejects),
        plan=[],
    )
    return _keep_later_stages(storage, manifest)


def count_records(
    sources: Sequence[SourceRecords], groups: Groups, rejects: Sequence[Reject]
) -> list[SourceTotals]:
    """The totals of each source.

    Raises:
        FatalError: when a record is neither written nor rejected nor left out by `take`, or is two of these.
    """
    written = Counter(example.source for example in groups.examples)
    codes = Counter((reject.source, str(reject.code)) for reject in rejects)
    totals: list[SourceTotals] = []
    for source in sources:
        name = source.config.name
        counts = {code: number for (owner, code), number in sorted(codes.items()) if owner == name}
        rejected = sum(counts.values())
        if source.num_taken != written[name] + rejected:
            raise FatalError(
                f"source {name}: {source.num_taken} records were taken, but {written[name]} written and "
                f"{rejected} rejected; this is a fault of the program, nothing was published"
            )
        repairs = sorted(groups.repairs.get(name, Counter()).items())
        totals.append(
            SourceTotals(
                name=name,
                read=source.num_read,
                taken=source.num_taken,
                written=written[name],
                rejected=rejected,
                rejects=counts,
                repairs={repair.value: number for repair, number in repairs},
                reject_budget=source.config.reject_budget,
            )
        )
    return totals


def _keep_later_stages(storage: Storage, manifest: Manifest) -> Manifest:
    try:
        old = load_manifest(storage)
    except NotFoundError:
        return manifest
    same = ("ingest_digest", "examples", "media")
    if any(getattr(old, name) != getattr(manifest, name) for name in same):
        return manifest
    return manifest.model_copy(update={"plan": old.plan, "shards": old.shards, "features": old.features})
