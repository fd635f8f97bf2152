"""Featurize: name the cache by its spec, encode the leaves that are not committed yet, publish the manifest.

Fingerprints cover spec and media, not conversations, so a corpus whose texts were mended is not encoded
again. A cache that the manifest lists and that is all there is done, and nothing is read. Otherwise workers
look leaf by leaf for what is committed; this process holds the plan and what the manifest must name. Leaves
of text-only items have no features.
"""

from collections import Counter

from infra.storage import Storage
from pipelines.commit import load_manifest, publish_manifest, put_object
from pipelines.engine import Engine, Progress, Resources, no_progress, run_as_finished
from pipelines.featurize.attention import pack_attention
from pipelines.featurize.reduced import check_class_row
from pipelines.featurize.resources import state_resources
from pipelines.featurize.reuse import Donor, find_own_donor
from pipelines.featurize.spec import open_encoder
from pipelines.featurize.statistics import put_spec, settle_spec
from pipelines.featurize.units import FEATURE_FORMAT, FeatureUnits
from pipelines.featurize.write import EncodeWorker
from pipelines.shard.done import are_there, list_events, list_shard
from pipelines.shard.tables import tables_of
from schemas.corpus import FeatureReject, FeatureSet, Manifest, ShardEntry
from schemas.errors import MismatchError
from schemas.feature import FeatureSpec
from schemas.recipe import Recipe

BYTES_PER_HALF = 2
DECODERS_PER_GPU = 8
"""What a machine with GPUs has in cores for each of them, as a rule."""


def featurize(
    recipe: Recipe,
    storage: Storage,
    engine: Engine,
    progress: Progress = no_progress,
    num_decoders: int | None = None,
    reuse: Storage | None = None,
) -> tuple[str, Manifest]:
    """Encode the media of a sharded corpus; return the short digest of the spec and the new manifest.

    Features that the corpus had before, or `reuse` has, of the same media under the same spec are copied.
    `num_decoders` processes decode for each encoder; by default one on a CPU, `DECODERS_PER_GPU` on a GPU.

    Raises:
        NotFoundError: when there is no corpus, or no encoder of that name.
        ConfigError: when no layer of the encoder follows the chosen one, or the reducer needs a class token
            and there is none.
        MismatchError: when the corpus was made by another recipe, or has no sample shards yet; when `reuse`
            holds features of another spec, naming every field that differs.
    """
    manifest = load_manifest(storage)
    if manifest.ingest_digest != recipe.ingest_digest or not manifest.shards:
        raise MismatchError(
            f"{storage.url} has no sample shards of the recipe {recipe.name!r} as it is now; "
            "run `onetoken ingest` and `onetoken shard` with it first"
        )
    opened = open_encoder(recipe.encoder)
    if recipe.reducer:
        check_class_row(recipe.reducer, has_class_row=opened.encoder.has_class_row)
    spec = settle_spec(recipe, storage, engine, progress, manifest, opened, reuse)
    features = _find_features(storage, manifest, spec)
    if features is None:
        attention = pack_attention(opened.encoder.last_layer_attention_weights())
        features = _describe_cache(storage, manifest, spec, attention)
        if num_decoders is None:
            num_decoders = DECODERS_PER_GPU if engine.has_gpu else 1
        donors = find_own_donor(storage, spec)
        if reuse:
            donors.append(Donor(reuse, load_manifest(reuse).digest))
        worker = EncodeWorker(storage, recipe, spec, tables_of(manifest), num_decoders, tuple(donors))
        resources = state_resources(engine, opened.encoder, num_decoders)
        features = _encode(worker, engine, progress, manifest, features, resources)
    named = features.model_copy(update={"encoder": recipe.encoder.model})
    extended = manifest.model_copy(update={"features": manifest.features | {spec.short_digest: named}})
    publish_manifest(storage, extended, derived_from=manifest)
    return spec.short_digest, extended


def _find_features(storage: Storage, manifest: Manifest, spec: FeatureSpec) -> FeatureSet | None:
    """The cache that the manifest lists, when all of it is there: it was made of the media listed."""
    found = manifest.features.get(spec.short_digest)
    if found is None or found.file_format != FEATURE_FORMAT:
        return None
    if not all(storage.exists(entry.path) for entry in (found.spec, found.attention)):
        return None
    return found if are_there(storage, _folder_of(spec), found.shards) else None


def _describe_cache(storage: Storage, manifest: Manifest, spec: FeatureSpec, attention: bytes) -> FeatureSet:
    """A cache without shards."""
    made_before = manifest.features.get(spec.short_digest)
    folder = _folder_of(spec)
    return FeatureSet(
        ordinal=made_before.ordinal if made_before else len(manifest.features),
        spec=put_spec(storage, spec),
        encoder="",
        attention=put_object(storage, folder, "attention", "safetensors", attention, num_rows=1),
        shards=[],
        num_items=0,
        num_views=0,
        num_fp16_bytes=0,
        file_format=FEATURE_FORMAT,
        rejects=[],
    )


def _encode(
    worker: EncodeWorker,
    engine: Engine,
    progress: Progress,
    manifest: Manifest,
    empty: FeatureSet,
    resources: Resources,
) -> FeatureSet:
    """Run the encoder over what is not committed yet; the cache with its shards."""
    units = FeatureUnits(manifest)
    encoder = worker.spec.encoder
    shards: dict[int, ShardEntry] = {}
    rejects: dict[int, list[FeatureReject]] = {}
    counts: Counter[str] = Counter()
    for index, done in run_as_finished(engine, worker, units, "featurize", progress, resources):
        shards[index] = list_shard(units[index].leaf, done.record)
        for event in list_events("featurize", done):
            engine.observer(event)
        counts.update(done.record.counts)
        if done.record.rejects:
            rejects[index] = done.record.rejects
    return empty.model_copy(
        update={
            "shards": [shards[index] for index in range(len(units))],
            "num_items": counts["items"],
            "num_views": counts["views"],
            "num_fp16_bytes": counts["views"] * encoder.num_patches * encoder.width * BYTES_PER_HALF,
            "num_thinned_clips": counts["thinned_clips"],
            "num_damaged_clips": counts["damaged_clips"],
            "rejects": [reject for index in sorted(rejects) for reject in rejects[index]],
        }
    )


def _folder_of(spec: FeatureSpec) -> str:
    return f"features/{spec.short_digest}"
