"""Shard: plan the leaves, write those that are not committed yet, publish the manifest.

The plan and the fingerprints need the tables alone, no media. A leaf whose items are the same as in an
earlier run has a commit record already and is not touched, so a second run reads no medium, and a run
that was killed goes on where it stopped.

The driver reads the tables once and keeps key, size and digest of every item: some 500 bytes each.
"""

from pathlib import Path

from infra.storage import Storage
from pipelines.commit import find_commit, load_manifest, publish_manifest
from pipelines.engine import Engine, Progress, no_progress, run_in_order
from pipelines.ingest.media import locate_media
from pipelines.shard.items import ItemTables, digest_item, fingerprint_shard
from pipelines.shard.plan import PlannedItem, count_views, key_range, plan_shards
from pipelines.shard.write import ShardSpec, ShardUnit, unit_name
from schemas.corpus import CommitRecord, Manifest, ShardEntry
from schemas.errors import MismatchError
from schemas.recipe import Recipe


def shard(recipe: Recipe, storage: Storage, engine: Engine, progress: Progress = no_progress) -> Manifest:
    """Write the sample shards of an ingested corpus and publish the manifest that lists them.

    Raises:
        NotFoundError: when nothing was ingested yet.
        MismatchError: when the corpus was ingested by another recipe, or media have changed since.
    """
    manifest = load_manifest(storage)
    if manifest.ingest_digest != recipe.ingest_digest:
        raise MismatchError(
            f"{storage.url} was ingested as {manifest.name!r} with other sources, views or shard limits than "
            f"the recipe {recipe.name!r} has now; run `onetoken ingest` with it first"
        )
    units = plan_units(recipe, storage, manifest)
    records = [find_commit(storage, unit_name(unit.leaf), unit.fingerprint) for unit in units]
    waiting = [unit for unit, record in zip(units, records, strict=True) if record is None]
    spec = ShardSpec(storage, manifest, locate_media(recipe.sources, Path.cwd()) if waiting else ())
    written = iter(run_in_order(engine, spec, waiting, "shard", progress))
    shards = [_list_shard(unit, record or next(written)) for unit, record in zip(units, records, strict=True)]
    manifest = manifest.model_copy(update={"plan": [unit.leaf for unit in units], "shards": shards})
    publish_manifest(storage, manifest)
    return manifest


def plan_units(recipe: Recipe, storage: Storage, manifest: Manifest) -> list[ShardUnit]:
    """The leaves of the plan, with the fingerprints of their items."""
    digests: dict[str, str] = {}
    planned: list[PlannedItem] = []
    for item in ItemTables(storage, manifest).read_items(*key_range("")):
        digests[item.key] = digest_item(item)
        facts = item.medium.facts if item.medium else None
        num_bytes = facts.num_bytes if facts else 0
        num_views = count_views(facts, recipe.views) if facts else 0
        planned.append(PlannedItem(item.key, item.modality, num_bytes, num_views))
    return [
        ShardUnit(shard.leaf, fingerprint_shard([digests[key] for key in shard.keys]))
        for shard in plan_shards(planned, recipe.shards)
    ]


def _list_shard(unit: ShardUnit, record: CommitRecord) -> ShardEntry:
    tar, index = record.objects
    return ShardEntry(name=unit.leaf.name, tar=tar, index=index)
