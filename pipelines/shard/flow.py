"""Shard: write the leaves of the plan that are not committed yet, publish the manifest.

Shards that the manifest lists were made from the tables that it lists, so when they are all there nothing is
left to do, and nothing is read. Otherwise every leaf goes to a worker, which computes the fingerprint of its
rows and looks for a commit record before it opens a medium: a run that was killed goes on where it stopped,
and a leaf whose items are the same as ever is not written again. So this process looks at no item; what it
holds is the plan, as columns, and the entries of the shards, which the manifest must name anyway.
"""

from pathlib import Path

from infra.storage import Storage
from pipelines.commit import load_manifest, publish_manifest
from pipelines.engine import Engine, Progress, no_progress, run_as_finished
from pipelines.ingest.media.reader import locate_media
from pipelines.shard.done import are_there, list_events, list_shard
from pipelines.shard.tables import tables_of
from pipelines.shard.write import FOLDER, ShardWorker
from schemas.corpus import Manifest, ShardEntry
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
    if manifest.shards and are_there(storage, FOLDER, manifest.shards):
        return manifest
    worker = ShardWorker(storage, tables_of(manifest), locate_media(recipe.sources, Path.cwd()))
    written: dict[int, ShardEntry] = {}
    for index, done in run_as_finished(engine, worker, manifest.plan, "shard", progress):
        written[index] = list_shard(manifest.plan[index], done.record)
        for event in list_events("shard", done):
            engine.observer(event)
    shards = [written[index] for index in range(len(manifest.plan))]
    sharded = manifest.model_copy(update={"shards": shards})
    publish_manifest(storage, sharded, derived_from=manifest)
    return sharded
