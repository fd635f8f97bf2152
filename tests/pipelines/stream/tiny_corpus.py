"""A corpus of a few dozen items, written straight to disk: examples, features and a manifest."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from tiny_spec import tiny_spec

from infra.storage import LocalStorage
from infra.tar import pack_index, write_shard
from operators.codec import identify_codec, open_codec
from operators.feature_file import MediumShape, pack_features
from pipelines.commit import put_object
from schemas.corpus import FeatureReject, FeatureSet, Manifest, ObjectEntry, ShardEntry, SourceTotals
from schemas.digest import canonical_json, sha256_hex
from schemas.plan import Leaf
from schemas.record import Modality

PATCHES, WIDTH = 4, 8
SOURCES = ("captions", "mixed", "videos")
PREFIXES = {
    Modality.IMAGE: ("00", "01", "10", "110", "111"),
    Modality.MULTI: ("",),
    Modality.VIDEO: ("0", "1"),
    Modality.TEXT: ("",),
}
SPEC = tiny_spec(PATCHES, WIDTH)


@dataclass(frozen=True)
class Item:
    key: str
    modality: Modality
    media: tuple[MediumShape, ...]

    @property
    def shard(self) -> str:
        bits = f"{int(self.key, 16):0128b}"
        prefix = next(p for p in PREFIXES[self.modality] if bits.startswith(p))
        return Leaf(modality=self.modality, prefix=prefix, num_items=0, num_media_bytes=0, num_views=0).name

    @property
    def views(self) -> torch.Tensor:
        """Exact in fp16, and different for every item and view."""
        num_views = sum(medium.num_views for medium in self.media)
        base = torch.arange(num_views * PATCHES * WIDTH).reshape(num_views, PATCHES, WIDTH) / 8
        return (base + int(self.key[:2], 16)).half()


@dataclass(frozen=True)
class Example:
    id: str
    source: str
    item: Item
    text: str


@dataclass(frozen=True)
class TinyCorpus:
    storage: LocalStorage
    manifest: Manifest
    items: tuple[Item, ...]
    examples: tuple[Example, ...]
    """In the order of the table."""

    @property
    def spec(self) -> str:
        return SPEC.short_digest

    def tar_path(self, shard: str) -> Path:
        (entry,) = [entry for entry in self.features.shards if entry.name == shard]
        return self.storage.local_path(entry.tar.path)

    @property
    def features(self) -> FeatureSet:
        return self.manifest.features[self.spec]


def build_corpus(folder: Path, rejected: Sequence[int] = (), num_files: int = 2) -> TinyCorpus:
    """Write a corpus; the items at the places `rejected` have no features."""
    storage = LocalStorage(folder)
    items = _make_items()
    examples = _make_examples(items)
    rejects = {items[place].key for place in rejected}
    plan = [
        Leaf(modality=modality, prefix=prefix, num_items=0, num_media_bytes=0, num_views=0)
        for modality, prefixes in PREFIXES.items()
        for prefix in prefixes
    ]
    shards = [
        _write_features(
            storage,
            leaf.name,
            [item for item in items if item.shard == leaf.name and item.key not in rejects],
        )
        for leaf in plan
        if leaf.modality is not Modality.TEXT
    ]
    spec = put_object(
        storage,
        f"features/{SPEC.short_digest}",
        "spec",
        "json",
        canonical_json(SPEC.model_dump(mode="json")),
        1,
    )
    features = FeatureSet(
        ordinal=0,
        spec=spec,
        encoder="tiny",
        attention=spec,
        shards=shards,
        num_items=0,
        num_views=0,
        num_fp16_bytes=0,
        rejects=[FeatureReject(key=key, code="damaged_image", message="") for key in sorted(rejects)],
    )
    manifest = Manifest(
        name="tiny",
        ingest_digest="0" * 64,
        sources=[
            SourceTotals(name=name, files={}, read=0, taken=0, rejects={}, reject_budget=0)
            for name in SOURCES
        ],
        num_media=0,
        num_media_bytes=0,
        num_media_uses=0,
        media_digest="0",
        examples=[_write_examples(storage, part) for part in _cut(examples, num_files)],
        media=[],
        quarantine=[],
        plan=plan,
        features={SPEC.short_digest: features},
    )
    return TinyCorpus(storage, manifest, items, examples)


def _make_items() -> tuple[Item, ...]:
    shapes = {
        Modality.IMAGE: [(MediumShape(1, 5),)],
        Modality.MULTI: [(MediumShape(1, 5), MediumShape(1, 5))],
        Modality.VIDEO: [(MediumShape(frames, 1),) for frames in (6, 1, 200, 3, 9, 1, 4)],
        Modality.TEXT: [()],
    }
    items = [
        Item(
            sha256_hex(f"{modality} {number}".encode())[:32],
            modality,
            shapes[modality][number % len(shapes[modality])],
        )
        for modality, count in (
            (Modality.IMAGE, 30),
            (Modality.MULTI, 3),
            (Modality.VIDEO, 7),
            (Modality.TEXT, 6),
        )
        for number in range(count)
    ]
    return tuple(sorted(items, key=lambda item: item.key))


def _make_examples(items: Sequence[Item]) -> tuple[Example, ...]:
    examples: list[Example] = []
    for place, item in enumerate(items):
        for number in range(1 + place % 3):
            source = "videos" if item.modality is Modality.VIDEO else SOURCES[(place + number) % 2]
            text = f"Question {number} about {item.key}? " + "word " * ((place * 7 + number * 3) % 23)
            identity = sha256_hex(f"{item.key} {number}".encode())[:32]
            examples.append(Example(identity, source, item, text))
    return tuple(sorted(examples, key=lambda example: (example.item.key, example.id)))


def _cut(examples: Sequence[Example], num_files: int) -> list[list[Example]]:
    return [
        [examples[place] for place in part] for part in np.array_split(np.arange(len(examples)), num_files)
    ]


def _write_examples(storage: LocalStorage, examples: Sequence[Example]) -> ObjectEntry:
    columns = {
        "example_id": [example.id for example in examples],
        "source": [example.source for example in examples],
        "record_file": ["a.json"] * len(examples),
        "record_row": pyarrow.array(range(len(examples)), pyarrow.int64()),
        "record_id": [""] * len(examples),
        "item_key": [example.item.key for example in examples],
        "modality": [example.item.modality.value for example in examples],
        "num_chars": pyarrow.array([len(example.text) for example in examples], pyarrow.int32()),
        "conversation": pyarrow.array(
            [canonical_json([["human", example.text], ["gpt", "Yes."]]) for example in examples],
            pyarrow.binary(),
        ),
    }
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), file, row_group_size=7)
    return put_object(storage, "examples", "part", "parquet", file.getvalue(), len(examples))


def _write_features(storage: LocalStorage, name: str, items: Sequence[Item]) -> ShardEntry:
    identity = identify_codec("fp16")
    codec = open_codec(identity)
    members: list[tuple[str, bytes]] = []
    for item in items:
        data = pack_features(
            codec.encode(torch.stack(list(item.views))),
            torch.zeros(len(item.views), WIDTH, dtype=torch.float16),
            media=item.media,
            codec=identity.name,
            codec_version=identity.version,
            num_patches=PATCHES,
            width=WIDTH,
        )
        members += [(f"{item.key}.feat.bin", data), (f"{item.key}.json", b"{}")]
    file = io.BytesIO()
    written = write_shard(members, file)
    folder = f"features/{SPEC.short_digest}"
    return ShardEntry(
        name=name,
        tar=put_object(storage, folder, name, "tar", file.getvalue(), len(items)),
        index=put_object(storage, folder, name, "idx", pack_index(written.members), len(items)),
    )
