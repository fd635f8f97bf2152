"""Features of one item, by ranged reads: everything, or some views without the others.

An item that is read whole costs one read. Some of its views cost one read of the header (4 KiB, more for
clips of 160 frames and above) and one per run of adjacent views. Each view is checked against its checksum
before it is decoded.

Indexes of shards are read when first needed, checked against the manifest, and the last 128 are kept: about
100 KB each. Decoding takes 0.6 ms a view of 576 x 1024 on one core.
"""

from collections import OrderedDict
from threading import Lock
from typing import Final

import torch

from infra.storage import Storage
from infra.tar import Member, read_index
from operators.batch import MediumFeatures
from operators.codec import decode_views, open_codec
from operators.feature_file import (
    PREFIX_BYTES,
    FeatureHeader,
    measure_header,
    open_section,
    read_header,
    view_range,
)
from pipelines.commit import parse_stored, read_object
from pipelines.stream.selection import ChosenMedium, ViewChoice, choose_views
from schemas.corpus import FeatureSet, Manifest, ShardEntry
from schemas.errors import CorruptError, MismatchError, NotFoundError
from schemas.feature import FeatureSpec
from schemas.training import FramesConfig

HEAD_BYTES: Final = 4096
KEPT_INDEXES: Final = 128
FEATURE_SUFFIX: Final = ".feat.bin"
ALL_FRAMES: Final = FramesConfig()


class FeatureReader:
    """The cache of one feature spec; safe to share between threads."""

    def __init__(self, storage: Storage, manifest: Manifest, spec: str) -> None:
        """Open the cache of the spec with this short digest.

        Raises:
            NotFoundError: when the corpus has none.
            MismatchError: when its codec is unknown here.
        """
        self._storage = storage
        self._set = find_features(manifest, spec)
        self._shards = {shard.name: shard for shard in self._set.shards}
        self._indexes: OrderedDict[str, dict[str, Member]] = OrderedDict()
        self._lock = Lock()
        self.spec = _read_spec(storage, self._set, spec)
        self._codec = open_codec(self.spec.codec)

    def read_item(
        self,
        key: str,
        *,
        shard: str | None = None,
        views: ViewChoice = "all",
        frames: FramesConfig = ALL_FRAMES,
    ) -> tuple[MediumFeatures, ...]:
        """The features of an item's media, in their order.

        Args:
            key: of the item.
            shard: its shard, where it is known; otherwise all indexes are searched.
            views: all, or the whole picture alone.
            frames: which frames of clips.

        Raises:
            NotFoundError: when no shard holds the item.
            CorruptError: naming shard and item, when the bytes are not those that were written.
            MismatchError: when they were made under another spec.
        """
        name = self.find_shard(key) if shard is None else shard
        entry = self._entry(name)
        try:
            return self._read(entry, key, views, frames)
        except (CorruptError, NotFoundError) as error:
            raise CorruptError(f"shard {name}, item {key}: {error}") from error

    def find_shard(self, key: str) -> str:
        """The shard that holds an item, by searching the indexes.

        Raises:
            NotFoundError: when none does.
        """
        for name in self._shards:
            if key in self._index(name):
                return name
        raise NotFoundError(f"no feature shard of spec {self.spec.short_digest} holds item {key}")

    def _read(
        self, entry: ShardEntry, key: str, views: ViewChoice, frames: FramesConfig
    ) -> tuple[MediumFeatures, ...]:
        member = self._index(entry.name).get(key)
        if member is None:
            raise CorruptError("the index of the shard does not list it")
        whole = views == "all" and frames == ALL_FRAMES
        head = self._read_head(entry, member, member.size if whole else HEAD_BYTES)
        header = read_header(head)
        self._check_header(header, member)
        chosen = choose_views(header.media, views, frames)
        places = [place for medium in chosen for place in medium.views]
        sections = self._read_sections(entry, member, header, places, head)
        return self._decode(header, chosen, sections)

    def _read_head(self, entry: ShardEntry, member: Member, wanted: int) -> bytes:
        head = self._storage.read_range(entry.tar.path, member.offset, min(member.size, wanted))
        length = measure_header(head[:PREFIX_BYTES])
        if len(head) < length <= member.size:
            head += self._storage.read_range(entry.tar.path, member.offset + len(head), length - len(head))
        return head

    def _check_header(self, header: FeatureHeader, member: Member) -> None:
        encoder, codec = self.spec.encoder, self.spec.codec
        found = (header.codec, header.codec_version, header.num_patches, header.width)
        wanted = (codec.name, codec.version, encoder.num_patches, encoder.width)
        if found != wanted:
            raise MismatchError(
                f"{member.name} holds (codec, version, patches, width) {found}, its spec says {wanted}; "
                "featurize again"
            )
        if header.num_bytes != member.size:
            raise CorruptError(f"{member.name} has {member.size} bytes and not {header.num_bytes}")

    def _read_sections(
        self, entry: ShardEntry, member: Member, header: FeatureHeader, places: list[int], head: bytes
    ) -> list[memoryview]:
        sections: list[memoryview] = []
        for first, last in _runs(places):
            start, (offset, length) = view_range(header, first)[0], view_range(header, last)
            if offset + length <= len(head):
                data = memoryview(head)[start : offset + length]
            else:
                size = offset + length - start
                data = memoryview(self._storage.read_range(entry.tar.path, member.offset + start, size))
            for place in range(first, last + 1):
                offset, length = view_range(header, place)
                sections.append(open_section(header, place, data[offset - start :][:length]).payload)
        return sections

    def _decode(
        self, header: FeatureHeader, chosen: list[ChosenMedium], sections: list[memoryview]
    ) -> tuple[MediumFeatures, ...]:
        decoded = decode_views(self._codec, sections, header.num_patches, header.width)
        parts = torch.split(decoded, [len(medium.views) for medium in chosen])
        return tuple(
            MediumFeatures(
                part.reshape(medium.shape.num_frames, medium.shape.views_per_frame, *part.shape[1:])
            )
            for part, medium in zip(parts, chosen, strict=True)
        )

    def _entry(self, name: str) -> ShardEntry:
        if name not in self._shards:
            raise NotFoundError(
                f"spec {self.spec.short_digest} has no shard {name}; run `onetoken featurize`"
            )
        return self._shards[name]

    def _index(self, name: str) -> dict[str, Member]:
        with self._lock:
            if name not in self._indexes:
                members = read_index(read_object(self._storage, self._entry(name).index))
                self._indexes[name] = {
                    member.name.removesuffix(FEATURE_SUFFIX): member
                    for member in members
                    if member.name.endswith(FEATURE_SUFFIX)
                }
                if len(self._indexes) > KEPT_INDEXES:
                    self._indexes.popitem(last=False)
            self._indexes.move_to_end(name)
            return self._indexes[name]


def find_features(manifest: Manifest, spec: str) -> FeatureSet:
    """The feature set of the spec with this short digest.

    Raises:
        NotFoundError: when the corpus has none.
    """
    if spec not in manifest.features:
        known = ", ".join(sorted(manifest.features)) or "none"
        raise NotFoundError(
            f"corpus {manifest.name} has no features of spec {spec} (it has: {known}); "
            "run `onetoken featurize`"
        )
    return manifest.features[spec]


def _read_spec(storage: Storage, features: FeatureSet, name: str) -> FeatureSpec:
    spec = parse_stored(read_object(storage, features.spec), FeatureSpec, features.spec.path)
    if spec.short_digest != name:
        raise MismatchError(
            f"{features.spec.path} has the digest {spec.short_digest}, the manifest says {name}"
        )
    return spec


def _runs(places: list[int]) -> list[tuple[int, int]]:
    """First and last of each run of adjacent places."""
    runs: list[tuple[int, int]] = []
    for place in places:
        if runs and place == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], place)
        else:
            runs.append((place, place))
    return runs
