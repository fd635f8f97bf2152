"""Features of items, by ranged reads: everything, or some views without the others.

An item that is read whole costs one read; whole items of a batch are read into memory that is there already,
and decoded together where the features are wanted. Some of its views cost one read of the header (4 KiB, more
for clips of 160 frames and above) and one per run of adjacent views. Each view is checked against its
checksum before it is handed out, still as its codec wrote it: decoding is for where it is used.

Indexes of shards are read when first needed, checked against the manifest, and the last 128 are kept: about
100 KB each. What is damaged in a cache is fetched again, once.
"""

from collections import OrderedDict
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from itertools import islice
from threading import Lock
from typing import Final

import torch
from jaxtyping import Float16
from torch import Tensor

from infra.storage import Storage
from infra.tar import Member, read_index
from operators.batch import MediumFeatures
from operators.codec import CPU, decode_views, open_codec
from operators.feature_file import (
    PREFIX_BYTES,
    FeatureHeader,
    MediumShape,
    measure_header,
    open_section,
    read_header,
    view_range,
)
from operators.stored import StoredFeatures
from pipelines.commit import parse_stored, read_object
from pipelines.stream.item_room import ItemCheck, ItemRoom
from pipelines.stream.selection import ChosenMedium, ViewChoice, choose_views
from pipelines.stream.source import DirectSource, ShardSource
from schemas.corpus import FeatureSet, Manifest, ShardEntry
from schemas.errors import CorruptError, MismatchError, NotFoundError
from schemas.feature import FeatureSpec
from schemas.stream import FramesConfig

HEAD_BYTES: Final = 4096
KEPT_INDEXES: Final = 128
FEATURE_SUFFIX: Final = ".feat.bin"
ALL_FRAMES: Final = FramesConfig()


class FeatureReader:
    """The cache of one feature spec; safe to share between threads."""

    def __init__(
        self, storage: Storage, manifest: Manifest, spec: str, source: ShardSource | None = None
    ) -> None:
        """Open the cache of the spec with this short digest.

        Args:
            storage: the corpus.
            manifest: of the corpus.
            spec: its short digest.
            source: where shards are read; None: from the storage.

        Raises:
            NotFoundError: when the corpus has none.
            MismatchError: when its codec is unknown here.
        """
        self._storage = storage
        self._source = DirectSource(storage) if source is None else source
        self._set = find_features(manifest, spec)
        self._shards = {shard.name: shard for shard in self._set.shards}
        self._indexes: OrderedDict[str, dict[str, Member]] = OrderedDict()
        self._lock = Lock()
        self.spec = _read_spec(storage, self._set, spec)
        self.codec = open_codec(self.spec.codec)

    def read_item(
        self,
        key: str,
        *,
        shard: str | None = None,
        views: ViewChoice = "all",
        frames: FramesConfig = ALL_FRAMES,
    ) -> tuple[MediumFeatures, ...]:
        """The features of an item's media, decoded; see `read_stored`."""
        name = self.find_shard(key) if shard is None else shard
        stored = self.read_stored(key, name, views=views, frames=frames)
        return tuple(MediumFeatures(medium.patches) for medium in stored)

    def read_stored(
        self, key: str, shard: str, *, views: ViewChoice = "all", frames: FramesConfig = ALL_FRAMES
    ) -> tuple[StoredFeatures, ...]:
        """The features of an item's media, in their order, as they are stored.

        Args:
            key: of the item.
            shard: that holds it.
            views: all, or the whole picture alone.
            frames: which frames of clips.

        Raises:
            NotFoundError: when there is no such shard.
            CorruptError: naming shard and item, when the bytes are not those that were written.
            MismatchError: when they were made under another spec.
        """
        entry = self._entry(shard)
        with _naming(shard, key):
            try:
                return self._read(entry, key, views, frames)
            except CorruptError:
                if not self._source.forget(entry.tar):
                    raise
                return self._read(entry, key, views, frames)

    def read_features(
        self, key: str, shard: str, *, views: ViewChoice = "all", frames: FramesConfig = ALL_FRAMES
    ) -> tuple[MediumFeatures | StoredFeatures, ...]:
        """What an example of the item is given; see `read_stored`."""
        return self.read_stored(key, shard, views=views, frames=frames)

    def read_views(
        self, key: str, places: Sequence[int], *, shard: str
    ) -> Float16[Tensor, "views patches width"]:
        """Some views of an item, counted over all its media, and nothing else.

        Raises:
            CorruptError: naming shard and item, when the bytes are not those that were written.
            MismatchError: when they were made under another spec.
        """
        entry = self._entry(shard)
        with _naming(shard, key):
            member, header, head = self._open(entry, key, HEAD_BYTES)
            sections = self._read_sections(entry, member, header, places, head)
            return decode_views(self.codec, sections, header.num_patches, header.width)

    def fetch(self, wanted: Iterable[tuple[str, str]], room: ItemRoom) -> list[memoryview]:
        """The bytes of whole items, by (shard, key), read into `room`; nothing is checked.

        Raises:
            CorruptError: naming shard and item, when there is none.
            WorkError: when the room is too small.
        """
        room.clear()
        fetched: list[memoryview] = []
        for shard, key in wanted:
            entry = self._entry(shard)
            with _naming(shard, key):
                member = self._find(entry, key)
                fetched.append(room.take(member.size))
                self._storage.read_into(entry.tar.path, member.offset, fetched[-1])
        return fetched

    def fetch_checked(self, wanted: Iterable[tuple[str, str]], room: ItemRoom) -> list[ItemCheck]:
        """The same, header and every view checked as their bytes come in.

        Raises:
            CorruptError: naming shard and item, when the bytes are not those that were written.
            MismatchError: when they were made under another spec.
            WorkError: when the room is too small.
        """
        room.clear()
        checked: list[ItemCheck] = []
        for shard, key in wanted:
            entry = self._entry(shard)
            with _naming(shard, key):
                member = self._find(entry, key)
                item = ItemCheck(room.take(member.size))
                self._storage.read_into(entry.tar.path, member.offset, item.data, item.see)
                self._check_header(item.header, member)
            checked.append(item)
        return checked

    def read_batch(
        self, wanted: Iterable[tuple[str, str]], room: ItemRoom, device: torch.device = CPU
    ) -> list[tuple[MediumFeatures, ...]]:
        """The features of whole items, by (shard, key), decoded on a device in one go.

        Raises:
            CorruptError: naming shard and item, when the bytes are not those that were written.
            MismatchError: when they were made under another spec.
            WorkError: when the room is too small.
        """
        checked = self.fetch_checked(wanted, room)
        payloads = [payload for item in checked for payload in item.payloads]
        encoder = self.spec.encoder
        decoded = decode_views(self.codec, payloads, encoder.num_patches, encoder.width, device)
        parts = torch.split(decoded, [len(item.payloads) for item in checked])
        return [_split(part, item.header.media) for part, item in zip(parts, checked, strict=True)]

    def list_shards(self) -> list[str]:
        """Names of the shards, in the order of the plan."""
        return [*self._shards]

    def list_keys(self, shard: str) -> list[str]:
        """The items of a shard, in order.

        Raises:
            NotFoundError: when there is no such shard.
        """
        return [*self._index(shard)]

    def read_shapes(self, key: str, *, shard: str) -> tuple[MediumShape, ...]:
        """How many views each medium of an item has.

        Raises:
            CorruptError: naming shard and item, when the header is not as it was written.
            MismatchError: when it was written under another spec.
        """
        with _naming(shard, key):
            return self._open(self._entry(shard), key, HEAD_BYTES)[1].media

    def expect(self, shards: Sequence[str]) -> None:
        """Told which shards are read next; those without features are passed over."""
        self._source.expect([self._shards[name].tar for name in shards if name in self._shards])

    def count_bytes(self, shards: Sequence[str]) -> int:
        """What these shards take."""
        return sum(self._shards[name].tar.num_bytes for name in shards if name in self._shards)

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
    ) -> tuple[StoredFeatures, ...]:
        whole = views == "all" and frames == ALL_FRAMES
        member, header, head = self._open(entry, key, None if whole else HEAD_BYTES)
        chosen = choose_views(header.media, views, frames)
        places = [place for medium in chosen for place in medium.views]
        sections = self._read_sections(entry, member, header, places, head)
        return self._hand_out(header, chosen, sections)

    def _open(
        self, entry: ShardEntry, key: str, num_bytes: int | None
    ) -> tuple[Member, FeatureHeader, bytes]:
        """The header of an item, and the first bytes that it came with; None: all of them."""
        member = self._find(entry, key)
        head = self._read_head(entry, member, num_bytes or member.size)
        header = read_header(head)
        self._check_header(header, member)
        return member, header, head

    def _find(self, entry: ShardEntry, key: str) -> Member:
        member = self._index(entry.name).get(key)
        if member is None:
            raise CorruptError("the index of the shard does not list it")
        return member

    def _read_head(self, entry: ShardEntry, member: Member, wanted: int) -> bytes:
        head = self._source.read_range(entry.tar, member.offset, min(member.size, wanted))
        length = measure_header(head[:PREFIX_BYTES])
        if len(head) < length <= member.size:
            head += self._source.read_range(entry.tar, member.offset + len(head), length - len(head))
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
        self, entry: ShardEntry, member: Member, header: FeatureHeader, places: Sequence[int], head: bytes
    ) -> list[memoryview]:
        sections: list[memoryview] = []
        for first, last in _runs(places):
            start, (offset, length) = view_range(header, first)[0], view_range(header, last)
            if offset + length <= len(head):
                data = memoryview(head)[start : offset + length]
            else:
                size = offset + length - start
                data = memoryview(self._source.read_range(entry.tar, member.offset + start, size))
            for place in range(first, last + 1):
                offset, length = view_range(header, place)
                sections.append(open_section(header, place, data[offset - start :][:length]).payload)
        return sections

    def _hand_out(
        self, header: FeatureHeader, chosen: list[ChosenMedium], sections: list[memoryview]
    ) -> tuple[StoredFeatures, ...]:
        left = iter(sections)
        return tuple(
            StoredFeatures(
                payloads=tuple(islice(left, len(medium.views))),
                num_frames=medium.shape.num_frames,
                views_per_frame=medium.shape.views_per_frame,
                num_patches=header.num_patches,
                width=header.width,
                codec=self.codec,
            )
            for medium in chosen
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


def _split(
    views: Float16[Tensor, "views patches width"], media: Sequence[MediumShape]
) -> tuple[MediumFeatures, ...]:
    """Views of an item by its media."""
    parts = torch.split(views, [medium.num_views for medium in media])
    return tuple(
        MediumFeatures(part.reshape(medium.num_frames, medium.views_per_frame, *part.shape[1:]))
        for part, medium in zip(parts, media, strict=True)
    )


@contextmanager
def _naming(shard: str, key: str) -> Generator[None]:
    try:
        yield
    except (CorruptError, NotFoundError) as error:
        raise CorruptError(f"shard {shard}, item {key}: {error}") from error


def _runs(places: Sequence[int]) -> list[tuple[int, int]]:
    """First and last of each run of adjacent places."""
    runs: list[tuple[int, int]] = []
    for place in places:
        if runs and place == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], place)
        else:
            runs.append((place, place))
    return runs
