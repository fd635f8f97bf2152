"""A cache to read from, as large as one likes: headers and sections as they are written, noise for codes.

Of the codec's work nothing is in it: reading is measured, and reading does not look at codes. There is one
example an item, so that the cache can be streamed, too.
"""

import random
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Final

import torch

from infra.storage import LocalStorage
from infra.tar import pack_index, write_shard
from jobs.bench.feature_statistics import NUM_PATCHES, STATISTICS, WIDTH, draw_views
from operators.codec import identify_codec, open_codec
from operators.feature_file import MediumShape, pack_features
from pipelines.commit import put_file, put_object
from pipelines.featurize.statistics import put_spec
from pipelines.ingest.tables import EXAMPLES, ExampleRow
from schemas.corpus import FeatureSet, Manifest, ObjectEntry, ShardEntry, SourceTotals
from schemas.digest import sha256_hex
from schemas.feature import EncoderIdentity, FeatureSpec, ImageRules, ProcessorValues, VideoRules
from schemas.plan import Leaf, ShardPlan
from schemas.record import Modality, encode_conversation

VIEWS_PER_ITEM: Final = 5
SUFFIX: Final = ".feat.bin"
PREFIX_BITS: Final = 6
_SOURCE: Final = SourceTotals(name="made-up", files={}, read=0, taken=0, rejects={}, reject_budget=0)


@dataclass(frozen=True, slots=True)
class FeatureCorpus:
    """A cache with its manifest; nothing else of the corpus is there."""

    storage: LocalStorage
    manifest: Manifest
    spec: str
    keys: tuple[tuple[str, str], ...]
    """Shard and key of every item."""

    def list_tars(self) -> list[Path]:
        """The shards, in order."""
        return [self.storage.local_path(shard.tar.path) for shard in self.manifest.features[self.spec].shards]


def write_feature_corpus(root: Path, num_shards: int, items_per_shard: int) -> FeatureCorpus:
    """Items of five views each, int8, in shards."""
    storage, spec = LocalStorage(root), _describe()
    codec = open_codec(spec.codec)
    (view,) = codec.encode(draw_views(STATISTICS["hybrid"], 1))
    noise = random.Random(0)  # noqa: S311 - bytes that do not compress
    shards: list[ShardEntry] = []
    keys: list[tuple[str, str]] = []
    plan: list[Leaf] = []
    for number in range(num_shards):
        leaf = Leaf(
            modality=Modality.IMAGE,
            prefix=f"{number:0{PREFIX_BITS}b}",
            num_items=items_per_shard,
            num_media_bytes=0,
            num_views=VIEWS_PER_ITEM * items_per_shard,
        )
        plan.append(leaf)
        name = leaf.name
        items = [f"{number << 64 - PREFIX_BITS:016x}{item:016x}" for item in range(items_per_shard)]
        path = root / f"{name}.writing"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w+b") as file:
            members = ((f"{key}{SUFFIX}", _pack_item(view, noise, spec)) for key in items)
            written = write_shard(members, file)
            folder = f"features/{spec.short_digest}"
            tar = put_file(storage, folder, name, "tar", file, written.sha256, items_per_shard)
        path.unlink()
        index = put_object(storage, folder, name, "idx", pack_index(written.members), items_per_shard)
        shards.append(ShardEntry(name=name, tar=tar, index=index))
        keys += [(name, key) for key in items]
    examples = _write_examples(storage, keys)
    manifest = _list(storage, spec, shards, len(keys)).model_copy(
        update={"plan": ShardPlan(plan), "examples": [examples], "sources": [_SOURCE]}
    )
    return FeatureCorpus(storage, manifest, spec.short_digest, tuple(keys))


def _write_examples(storage: LocalStorage, keys: Sequence[tuple[str, str]]) -> ObjectEntry:
    rows = [
        ExampleRow(
            example_id=sha256_hex(key.encode())[:32],
            source=_SOURCE.name,
            record_file="a.json",
            record_row=row,
            record_id="",
            item_key=key,
            modality=Modality.IMAGE,
            num_chars=100 + row % 50,
            conversation=encode_conversation(("<image>\n" + "What is it? " * 8, "A ball. " * 4)),
        )
        for row, (_, key) in enumerate(keys)
    ]
    return put_object(
        storage, "examples", "all", "parquet", EXAMPLES.write([astuple(row) for row in rows]), len(rows)
    )


def _pack_item(view: bytes, noise: random.Random, spec: FeatureSpec) -> bytes:
    num_codes = NUM_PATCHES * WIDTH
    payloads = [view[:-num_codes] + noise.randbytes(num_codes) for _ in range(VIEWS_PER_ITEM)]
    return pack_features(
        payloads,
        torch.zeros(VIEWS_PER_ITEM, WIDTH, dtype=torch.float16),
        media=[MediumShape(1, VIEWS_PER_ITEM)],
        codec=spec.codec.name,
        codec_version=spec.codec.version,
        num_patches=NUM_PATCHES,
        width=WIDTH,
    )


def _describe() -> FeatureSpec:
    return FeatureSpec(
        encoder=EncoderIdentity(
            weights_sha256="",
            architecture="none",
            layer=-2,
            num_patches=NUM_PATCHES,
            width=WIDTH,
            dtype="float32",
        ),
        processor=ProcessorValues(),
        image=ImageRules(
            version="none",
            max_pixels=1,
            min_side_px=1,
            max_aspect=1,
            alpha_background=(0, 0, 0),
            decoder="none",
        ),
        resizer="none",
        image_views="hd4",
        aspect="pad",
        video=VideoRules(fps=1.0, uniform=None, max_frames=1, rule="even", backend="pyav", decoder="none"),
        codec=identify_codec("int8"),
    )


def _list(storage: LocalStorage, spec: FeatureSpec, shards: list[ShardEntry], num_items: int) -> Manifest:
    entry = put_spec(storage, spec)
    features = FeatureSet(
        ordinal=0,
        spec=entry,
        encoder="none",
        attention=entry,
        shards=shards,
        num_items=num_items,
        num_views=VIEWS_PER_ITEM * num_items,
        num_fp16_bytes=0,
        rejects=[],
    )
    return Manifest(
        name="features",
        ingest_digest="",
        sources=[],
        num_media=0,
        num_media_bytes=0,
        num_media_uses=0,
        media_digest="",
        examples=[],
        media=[],
        quarantine=[],
        plan=ShardPlan(),
        features={spec.short_digest: features},
    )
