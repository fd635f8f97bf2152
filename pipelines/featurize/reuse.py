"""Features that are there already: of the same media under the same spec, in this corpus or in another one.

A feature is a function of (medium, spec), so an item's sections are copied as they are, checked on the way
and neither decoded nor encoded. A medium is known by its sha256: an item's key begins with it, which leads to
the one leaf of the donor that can hold it, and the facts stored beside the features must tell all of it.

Donors are the manifest of the corpus that listed this cache last (a new medium changes its leaf, and others
of that leaf need not be encoded again) and a corpus that the user names. Left out: media that a donor has
only among several of one item; they are encoded.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import torch

from infra.storage import Storage
from operators.feature_file import (
    MediumShape,
    describe_mismatch,
    open_section,
    pack_features,
    read_header,
    view_range,
)
from pipelines.commit import load_manifest, load_pinned_manifest, parse_stored, read_object
from pipelines.featurize.samples import IndexedShard, SampleShard, StoredItem, StoredMedium
from pipelines.featurize.units import FEATURE_FORMAT
from schemas.corpus import FeatureSet, Manifest, ShardEntry
from schemas.digest import canonical_json
from schemas.errors import CorruptError, MismatchError, NotFoundError
from schemas.feature import FeatureSpec
from schemas.medium import item_key_of_media, modality_of
from schemas.record import MediumKind, Modality

KEPT_SHARDS: Final = 16
MOST_MANIFESTS: Final = 8
"""Ingest and shard publish one each, so the last cache is a few manifests back."""


@dataclass(frozen=True, slots=True)
class Donor:
    """A cache of the same spec: travels to workers, who open it."""

    storage: Storage
    manifest_sha256: str


@dataclass(frozen=True, slots=True)
class PackedItem:
    """The two members of an item in a feature shard."""

    packed: bytes
    facts: bytes
    num_views: int
    counts: dict[str, int]
    """Of clips."""


@dataclass(frozen=True, slots=True)
class _StoredFeatures:
    """The sections of one medium, and what is told of it."""

    shape: MediumShape
    facts: dict[str, object]
    class_rows: list[torch.Tensor]
    """Empty where the encoder has no class token."""
    payloads: list[bytes]


def find_own_donor(storage: Storage, spec: FeatureSpec) -> list[Donor]:
    """The last manifest of this corpus that lists the cache, if one of the last few does."""
    stored = sorted(storage.list_objects("manifests"), key=lambda one: one.age_s)
    for one in stored[:MOST_MANIFESTS]:
        digest = one.path.removeprefix("manifests/").removesuffix(".json")
        try:
            manifest = load_pinned_manifest(storage, digest)
        except (CorruptError, MismatchError, NotFoundError):
            continue
        if _list_features(manifest, spec) is not None:
            return [Donor(storage, digest)]
    return []


def find_spec(storage: Storage, plain: FeatureSpec) -> FeatureSpec:
    """The spec under which another corpus holds features like these, with its statistics.

    Raises:
        NotFoundError: when there is no corpus.
        MismatchError: when it holds none; the message names what differs from the one that is closest.
    """
    manifest = load_manifest(storage)
    specs = [read_spec(storage, features) for features in manifest.features.values()]
    for spec in specs:
        if without_statistics(spec) == without_statistics(plain):
            return spec
    if not specs:
        raise MismatchError(f"{storage.url} holds no features to reuse; featurize it first")
    differences = min((without_statistics(spec).list_differences(plain) for spec in specs), key=len)
    raise MismatchError(f"the features of {storage.url} are others: {'; '.join(differences)}")


def read_spec(storage: Storage, features: FeatureSet) -> FeatureSpec:
    """The spec of a cache."""
    where = f"{storage.url}/{features.spec.path}"
    return parse_stored(read_object(storage, features.spec), FeatureSpec, where)


def without_statistics(spec: FeatureSpec) -> FeatureSpec:
    """A spec as the recipe alone decides it."""
    return spec.model_copy(update={"codec": spec.codec.model_copy(update={"statistics": None})})


class StoredFeatures:
    """Finds features by medium in one donor; for one thread."""

    def __init__(self, donor: Donor, spec: FeatureSpec) -> None:
        """Read the donor's manifest.

        Raises:
            MismatchError: when it lists no cache of this spec.
        """
        self._storage = donor.storage
        self._spec = spec
        manifest = load_pinned_manifest(donor.storage, donor.manifest_sha256)
        self._shards = _by_leaf(manifest, spec)
        self._opened: OrderedDict[str, IndexedShard | None] = OrderedDict()
        """None: gone."""

    def holds(self, shard: SampleShard, key: str, modality: Modality) -> bool:
        """Whether features of all media of an item are there: a look into indexes."""
        if self._holds(key, modality):
            return True
        if modality is not Modality.MULTI:
            return False
        media = shard.read_facts(key).media
        return all(self._holds(item_key_of_media((medium.sha256,)), _modality_of(medium)) for medium in media)

    def read(self, item: StoredItem) -> PackedItem:
        """The members of an item that is held.

        Raises:
            CorruptError: when what is there is not as it was written, or is of other media.
        """
        if self._holds(item.key, Modality(item.modality)):
            features = self._read(item.key, Modality(item.modality), item.media)
        else:
            features = [
                one
                for medium in item.media
                for one in self._read(item_key_of_media((medium.sha256,)), _modality_of(medium), [medium])
            ]
        class_rows = [row for one in features for row in one.class_rows]
        packed = pack_features(
            [payload for one in features for payload in one.payloads],
            torch.stack(class_rows) if class_rows else None,
            media=[one.shape for one in features],
            codec=self._spec.codec.name,
            codec_version=self._spec.codec.version,
            num_patches=self._spec.encoder.num_patches,
            width=self._spec.encoder.width,
        )
        pairs = zip(item.media, features, strict=True)
        told: list[dict[str, object]] = [one.facts | msgspec.to_builtins(medium) for medium, one in pairs]
        return PackedItem(
            packed, describe_item(item, told), sum(one.shape.num_views for one in features), count_clips(told)
        )

    def _holds(self, key: str, modality: Modality) -> bool:
        shard = self._find_shard(key, modality)
        return shard is not None and shard.holds(f"{key}.feat.bin")

    def _read(self, key: str, modality: Modality, media: Sequence[StoredMedium]) -> list[_StoredFeatures]:
        shard = self._find_shard(key, modality)
        if shard is None:
            raise CorruptError(f"features of item {key} are gone from {self._storage.url}; run it again")
        told: list[dict[str, object]] = msgspec.json.decode(shard.read_member(f"{key}.json"))["media"]
        if [medium["sha256"] for medium in told] != [medium.sha256 for medium in media]:
            raise CorruptError(
                f"features of item {key} in {self._storage.url} are of other media of that key"
            )
        return [*_take_apart(shard.read_member(f"{key}.feat.bin"), told, self._spec)]

    def _find_shard(self, key: str, modality: Modality) -> IndexedShard | None:
        bits = f"{int(key, 16):0{4 * len(key)}b}"
        lengths, shards = self._shards.get(modality, ((), {}))
        entry = next((shards[bits[:n]] for n in lengths if bits[:n] in shards), None)
        if entry is None:
            return None
        if entry.name not in self._opened:
            is_there = all(self._storage.exists(one.path) for one in (entry.tar, entry.index))
            self._opened[entry.name] = IndexedShard(self._storage, entry) if is_there else None
            if len(self._opened) > KEPT_SHARDS:
                self._opened.popitem(last=False)
        self._opened.move_to_end(entry.name)
        return self._opened[entry.name]


def describe_item(item: StoredItem, media: Sequence[dict[str, object]]) -> bytes:
    """What stands in `KEY.json` of a feature shard: canonical, no conversation."""
    return canonical_json({"key": item.key, "modality": item.modality, "media": media})


def count_clips(media: Sequence[dict[str, object]]) -> dict[str, int]:
    """What the totals tell of clips, from the facts that stand beside features."""
    return {
        "thinned_clips": sum(bool(medium.get("num_frames_left_out")) for medium in media),
        "damaged_clips": sum(bool(medium.get("num_damaged_packets")) for medium in media),
    }


def _modality_of(medium: StoredMedium) -> Modality:
    """Of the item that is this medium alone."""
    return modality_of((MediumKind(medium.kind),))


def _take_apart(
    packed: bytes, told: Sequence[dict[str, object]], spec: FeatureSpec
) -> Iterator[_StoredFeatures]:
    header = read_header(packed)
    if why := describe_mismatch(header, spec):
        raise MismatchError(f"a feature file that could be reused {why}; run `onetoken verify` where it lies")
    place = 0
    for shape, facts in zip(header.media, told, strict=True):
        sections = [
            open_section(header, view, packed[offset : offset + length])
            for view in range(place, place + shape.num_views)
            for offset, length in [view_range(header, view)]
        ]
        place += shape.num_views
        rows = [section.class_row for section in sections if section.class_row is not None]
        yield _StoredFeatures(shape, facts, rows, [bytes(section.payload) for section in sections])


def _list_features(manifest: Manifest, spec: FeatureSpec) -> FeatureSet | None:
    """The cache of a spec, if this program writes its files in the same way."""
    found = manifest.features.get(spec.short_digest)
    return found if found is not None and found.file_format == FEATURE_FORMAT else None


def _by_leaf(
    manifest: Manifest, spec: FeatureSpec
) -> dict[Modality, tuple[tuple[int, ...], dict[str, ShardEntry]]]:
    """Of each modality the lengths of its prefixes, and its shards by prefix."""
    features = _list_features(manifest, spec)
    if features is None:
        raise MismatchError(f"manifest {manifest.digest} lists no features of spec {spec.short_digest}")
    shards: dict[Modality, dict[str, ShardEntry]] = {}
    for entry in features.shards:
        modality, _, prefix = entry.name.partition("-")
        shards.setdefault(Modality(modality), {})["" if prefix == "all" else prefix] = entry
    return {
        modality: (tuple(sorted({len(prefix) for prefix in found})), found)
        for modality, found in shards.items()
    }
