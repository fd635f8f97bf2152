"""Ingest: annotations and media in, tables of examples, media and rejects out, every record accounted for.

    scan    ranges of annotation files   ->  rows counted, media named          (scan.py, scanning.py)
    probe   buckets of media named       ->  sha256 and header facts            (probe.py, embedded.py)
    read    the same ranges              ->  examples, joined with the facts    (read.py)
    group   buckets of item keys         ->  tables, leaves of the shard plan   (group.py)

Every stage runs on the engine, and hands rows to the next one by scratch objects; this process plans and
counts. What a worker holds is one range or one bucket, so memory does not grow with the corpus. Nothing is
visible before the manifest is: an ingest that was killed is started again from the beginning, but for what
its probe has found out already.

What the manifest in force has of later stages is kept as far as it still holds: features while the items with
media are the same, sample shards while the examples are, too.
"""

from dataclasses import dataclass

from infra.storage import Storage
from pipelines.commit import load_manifest, publish_manifest
from pipelines.engine import Engine, Progress, no_progress
from pipelines.ingest.findings import ProbeCounts
from pipelines.ingest.inputs import plan_units
from pipelines.ingest.kept_recipe import keep_recipe
from pipelines.ingest.probe import ProbeWorker
from pipelines.ingest.scanning import scan_ranges
from pipelines.ingest.stages import group_items, make_scan_worker, open_run, probe_media, read_ranges
from pipelines.ingest.tables import choose_item_bits
from pipelines.ingest.totals import account_ingest
from schemas.corpus import Manifest
from schemas.errors import NotFoundError
from schemas.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Ingested:
    """What an ingest came to."""

    manifest: Manifest
    probed: ProbeCounts


def ingest(
    recipe: Recipe,
    storage: Storage,
    engine: Engine,
    progress: Progress = no_progress,
    reread: bool = False,
    probe: type[ProbeWorker] = ProbeWorker,
) -> Ingested:
    """Read what a recipe names and publish the manifest of its examples and media.

    Annotation paths and media roots start from the current folder.

    Args:
        recipe: what to read.
        storage: the corpus.
        engine: who does the work.
        progress: told how far each stage is.
        reread: read media again that look unchanged since an earlier run.
        probe: looks at media; another one serves measurements without media.

    Raises:
        ConfigError: when something that the recipe names is not there.
        CorruptError: when an annotation file is broken between rows.
    """
    old = find_manifest(storage)
    with open_run(recipe, storage, engine, progress) as run:
        scanned = scan_ranges(engine, make_scan_worker(run), plan_units(run.inputs), progress)
        units, probed = probe_media(run, scanned, reread, probe)
        item_bits = choose_item_bits(sum(unit.range.num_taken for unit in units))
        read = read_ranges(run, units, item_bits)
        groups = group_items(run, units, read, item_bits)
    manifest = account_ingest(recipe, units, read, groups)
    if old:
        manifest = keep_later_stages(old, manifest)
    keep_recipe(storage, recipe)
    publish_manifest(storage, manifest, derived_from=old)
    return Ingested(manifest, probed)


def keep_later_stages(old: Manifest, manifest: Manifest) -> Manifest:
    """The manifest with what the old one has of later stages, as far as it still holds."""
    if old.ingest_digest != manifest.ingest_digest or old.media_digest != manifest.media_digest:
        return manifest
    shards = old.shards if (old.examples, old.media) == (manifest.examples, manifest.media) else []
    return manifest.model_copy(update={"shards": shards, "features": old.features})


def find_manifest(storage: Storage) -> Manifest | None:
    """The manifest in force, if there is one."""
    try:
        return load_manifest(storage)
    except NotFoundError:
        return None
