"""Ingest: annotations and media in, tables of examples, media and rejects out, every record accounted for.

    annotation files -> rows -> records -> probe (engine) -> examples, media, quarantine -> manifest

Reading annotations happens here, in one process; everything that opens media goes through the engine.
Nothing is visible before the manifest is: an ingest that was killed is started again from the beginning.
What the manifest in force has of later stages is kept as far as it still holds: features while the media are
the same, sample shards while the examples are, too.
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
from pipelines.ingest.plan import PlannedItem, count_views, plan_shards
from pipelines.ingest.probe import ProbeWorker, collect_findings, plan_probes, request_medium
from pipelines.ingest.records import SourceRecords, read_source
from schemas.corpus import Leaf, Manifest, SourceTotals
from schemas.errors import FatalError, NotFoundError
from schemas.medium import item_key_of_media
from schemas.recipe import Recipe
from schemas.record import Modality, Reject


def ingest(recipe: Recipe, storage: Storage, engine: Engine, progress: Progress = no_progress) -> Manifest:
    """Read what a recipe names and publish the manifest of its examples and media.

    Annotation paths and media roots start from the current folder.

    Raises:
        ConfigError: when something that the recipe names is not there.
        CorruptError: when an annotation file is broken between rows.
    """
    here, old = Path.cwd(), _find_manifest(storage)
    media_sources = locate_media(recipe.sources, here)
    sources = _read_sources(recipe, here, progress)
    parsed = [one for source in sources for one in source.parsed]

    embedded = frozenset(source.name for source in media_sources if source.is_embedded)
    requests = (request_medium(one.record) for one in parsed)
    units = plan_probes((request for request in requests if request), embedded)
    results = run_in_order(engine, ProbeWorker(media_sources), units, "probe", progress)

    deduplicated = frozenset(config.name for config in recipe.sources if config.deduplicate)
    groups = group_records(parsed, collect_findings(units, results), deduplicated)
    manifest = _write_tables(recipe, storage, sources, groups)
    if old:
        manifest = _keep_later_stages(storage, old, manifest, groups)
    publish_manifest(storage, manifest, derived_from=old)
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
    return Manifest(
        name=recipe.name,
        ingest_digest=recipe.ingest_digest,
        sources=count_records(sources, groups, rejects),
        num_media=len(media),
        num_media_bytes=sum(row.facts.num_bytes for row in media),
        num_media_uses=sum(row.times_used for row in media),
        examples=tables.write_examples(storage, groups.examples),
        media=tables.write_media(storage, media),
        quarantine=tables.write_quarantine(storage, rejects),
        plan=plan_leaves(recipe, groups),
    )


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


def plan_leaves(recipe: Recipe, groups: Groups) -> list[Leaf]:
    """The shard plan of the items that the examples are about."""
    media = {item_key_of_media((row.facts.sha256,)): row.facts for row in groups.media.values()}
    modalities = {example.item_key: example.modality for example in groups.examples}
    planned: list[PlannedItem] = []
    for key, modality in modalities.items():
        facts = media.get(key) if modality is not Modality.TEXT else None
        num_views = count_views(facts, recipe.views) if facts else 0
        planned.append(PlannedItem(key, modality, facts.num_bytes if facts else 0, num_views))
    return [shard.leaf for shard in plan_shards(planned, recipe.shards)]


def _find_manifest(storage: Storage) -> Manifest | None:
    try:
        return load_manifest(storage)
    except NotFoundError:
        return None


def _keep_later_stages(storage: Storage, old: Manifest, manifest: Manifest, groups: Groups) -> Manifest:
    if old.ingest_digest != manifest.ingest_digest:
        return manifest
    known = {row.facts.sha256 for entry in old.media for row in tables.read_media(storage, entry)}
    if known != groups.media.keys():
        return manifest
    shards = old.shards if old.examples == manifest.examples else []
    return manifest.model_copy(update={"shards": shards, "features": old.features})
