"""Shard: write the leaves of the plan that are not committed yet, publish the manifest.

Fingerprints need the tables alone, no media. A leaf whose items are the same as in an
earlier run has a commit record already and is not touched, so a second run reads no medium, and a run
that was killed goes on where it stopped.
"""

from pathlib import Path

from infra.storage import Storage
from pipelines.commit import find_commit, load_manifest, publish_manifest
from pipelines.engine import Engine, Progress, no_progress, run_in_order
from pipelines.ingest.media.reader import locate_media
from pipelines.shard.items import ItemTables, digest_item, fingerprint_shard
from pipelines.shard.write import ShardUnit, ShardWorker, unit_name
from schemas.corpus import CommitRecord, Leaf, Manifest, ShardEntry
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
    units = list_units(storage, manifest)
    records = [find_commit(storage, unit_name(unit.leaf), unit.fingerprint) for unit in units]
    waiting = [unit for unit, record in zip(units, records, strict=True) if record is None]
    spec = ShardWorker(storage, manifest, locate_media(recipe.sources, Path.cwd()) if waiting else ())
    written = iter(run_in_order(engine, spec, waiting, "shard", progress))
    shards = [_list_shard(unit, record or next(written)) for unit, record in zip(units, records, strict=True)]
    sharded = manifest.model_copy(update={"shards": shards})
    publish_manifest(storage, sharded, derived_from=manifest)
    return sharded


def list_units(storage: Storage, manifest: Manifest) -> list[ShardUnit]:
    """The leaves of the plan, with the fingerprints of their items."""
    tables = ItemTables(storage, manifest)
    return [ShardUnit(leaf, fingerprint_shard(_digest_items(tables, leaf))) for leaf in manifest.plan]


def _digest_items(tables: ItemTables, leaf: Leaf) -> list[str]:
    found = tables.read_items(leaf.prefix)
    return [digest_item(item) for item in found if item.modality is leaf.modality]


def _list_shard(unit: ShardUnit, record: CommitRecord) -> ShardEntry:
    tar, index = record.objects
    return ShardEntry(name=unit.leaf.name, tar=tar, index=index)
