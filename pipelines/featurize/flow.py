"""Featurize: name the cache by its spec, encode the leaves that are not committed yet, publish the manifest.

Fingerprints cover spec and media, not conversations, so a corpus whose texts were mended is not encoded
again. Leaves of text-only items have no features.
"""

from collections.abc import Sequence
from io import BytesIO

from infra.storage import Storage
from pipelines.commit import find_commit, load_manifest, publish_manifest, put_object
from pipelines.engine import Engine, Progress, Resources, no_progress, run_in_order
from pipelines.featurize.attention import pack_attention
from pipelines.featurize.spec import describe_spec, open_encoder
from pipelines.featurize.write import EncodeWorker, FeatureUnit
from pipelines.shard.items import ItemTables, describe_medium
from schemas.corpus import CommitRecord, FeatureSet, Leaf, Manifest, ObjectEntry, ShardEntry
from schemas.digest import canonical_json, digest_of, sha256_hex
from schemas.errors import MismatchError
from schemas.feature import FeatureSpec
from schemas.recipe import Recipe
from schemas.record import Modality

FEATURE_FORMAT = 2
"""Version of what a feature shard holds; part of every fingerprint."""
BYTES_PER_HALF = 2


def featurize(
    recipe: Recipe, storage: Storage, engine: Engine, progress: Progress = no_progress
) -> tuple[str, Manifest]:
    """Encode the media of a sharded corpus; return the short digest of the spec and the new manifest.

    Raises:
        NotFoundError: when there is no corpus, or no encoder of that name.
        ConfigError: when the encoder has no class token, or no layer behind the chosen one.
        MismatchError: when the corpus was made by another recipe, or has no sample shards yet.
    """
    manifest = load_manifest(storage)
    if manifest.ingest_digest != recipe.ingest_digest or not manifest.shards:
        raise MismatchError(
            f"{storage.url} has no sample shards of the recipe {recipe.name!r} as it is now; "
            "run `onetoken ingest` and `onetoken shard` with it first"
        )
    opened = open_encoder(recipe.encoder)
    spec = describe_spec(recipe.views, recipe.encoder, recipe.codec, opened)
    attention = pack_attention(opened.encoder.last_layer_attention_weights())
    units = list_units(storage, manifest, spec)
    records = [find_commit(storage, unit.name, unit.fingerprint) for unit in units]
    waiting = [unit for unit, record in zip(units, records, strict=True) if record is None]
    resources = Resources(num_gpus=1.0 if engine.has_gpu else 0.0)
    worker = EncodeWorker(storage, recipe, spec)
    made = iter(run_in_order(engine, worker, waiting, "featurize", progress, resources))
    records = [record or next(made) for record in records]
    made_before = manifest.features.get(spec.short_digest)
    ordinal = made_before.ordinal if made_before else len(manifest.features)
    features = _describe_set(storage, recipe.encoder.model, ordinal, spec, attention, units, records)
    sets = manifest.features | {spec.short_digest: features}
    extended = manifest.model_copy(update={"features": sets})
    publish_manifest(storage, extended, derived_from=manifest)
    return spec.short_digest, extended


def list_units(storage: Storage, manifest: Manifest, spec: FeatureSpec) -> list[FeatureUnit]:
    """The leaves with media, with the fingerprints of their media under the spec."""
    shards = {shard.name: shard for shard in manifest.shards}
    tables = ItemTables(storage, manifest)
    return [
        FeatureUnit(leaf, shards[leaf.name], fingerprint_features(tables, leaf, spec))
        for leaf in manifest.plan
        if leaf.modality is not Modality.TEXT
    ]


def fingerprint_features(tables: ItemTables, leaf: Leaf, spec: FeatureSpec) -> str:
    """Digest of all that decides the bytes of a feature shard."""
    media = [
        [item.key, [describe_medium(medium) for medium in item.media]]
        for item in tables.read_items(leaf.prefix)
        if item.modality is leaf.modality
    ]
    return digest_of(["feature-shard", FEATURE_FORMAT, spec.digest, media])


def _describe_set(
    storage: Storage,
    name: str,
    ordinal: int,
    spec: FeatureSpec,
    attention: bytes,
    units: Sequence[FeatureUnit],
    records: Sequence[CommitRecord],
) -> FeatureSet:
    folder = f"features/{spec.short_digest}"
    num_views = sum(record.counts["views"] for record in records)
    return FeatureSet(
        ordinal=ordinal,
        spec=_put_spec(storage, folder, spec),
        encoder=name,
        attention=put_object(storage, folder, "attention", "safetensors", attention, num_rows=1),
        shards=[_list_shard(unit, record) for unit, record in zip(units, records, strict=True)],
        num_items=sum(record.counts["items"] for record in records),
        num_views=num_views,
        num_fp16_bytes=num_views * spec.encoder.num_patches * spec.encoder.width * BYTES_PER_HALF,
        num_thinned_clips=sum(record.counts["thinned_clips"] for record in records),
        num_damaged_clips=sum(record.counts["damaged_clips"] for record in records),
        rejects=[reject for record in records for reject in record.rejects],
    )


def _put_spec(storage: Storage, folder: str, spec: FeatureSpec) -> ObjectEntry:
    data = canonical_json(spec.model_dump(mode="json"))
    path = f"{folder}/spec.json"
    storage.put(path, BytesIO(data))
    return ObjectEntry(path=path, sha256=sha256_hex(data), num_bytes=len(data), num_rows=1)


def _list_shard(unit: FeatureUnit, record: CommitRecord) -> ShardEntry:
    tar, index = record.objects
    return ShardEntry(name=unit.leaf.name, tar=tar, index=index)
