"""Features of items, by ranged reads: everything, or some views without the others.

Whole items are read straight into the memory that they stay in, neighbors in one go (see
`pipelines.stream.spans`). Some views of an item cost one read of the header (4 KiB, more for clips of 160
frames and above) and one per run of adjacent views.
Everything is checked before it is handed out: whole items against the checksum of the index, single views
against that of the header. Features stay as their codec wrote them: decoding is for where they are used, on a
GPU from pinned memory. What is damaged in a cache is fetched again, once.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Final, TypeVar

import torch
from jaxtyping import Float16
from torch import Tensor

from infra.storage import Storage
from operators.batch import MediumFeatures
from operators.codec import decode_views, open_view_codec
from operators.feature_file import (
    PREFIX_BYTES,
    FeatureHeader,
    MediumShape,
    check_section,
    check_size,
    cut_views,
    describe_mismatch,
    measure_header,
    open_section,
    read_header,
    view_range,
)
from operators.stored import StoredFeatures
from pipelines.commit import parse_stored, read_object
from pipelines.stream.selection import ChosenMedium, ViewChoice, choose_views, find_runs
from pipelines.stream.shard_indexes import ShardIndexes
from pipelines.stream.source import DirectSource, ShardSource
from pipelines.stream.spans import (
    Place,
    Span,
    SpanCheck,
    join_spans,
    named_item,
)
from pipelines.stream.used_rooms import UsedRooms
from schemas.corpus import FeatureSet, Manifest, ShardEntry
from schemas.errors import CorruptError, MismatchError, NotFoundError
from schemas.feature import FeatureSpec
from schemas.stream import FramesConfig

HEAD_BYTES: Final = 4096
ALL_FRAMES: Final = FramesConfig()

Read = TypeVar("Read")


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
        self._source = DirectSource(storage) if source is None else source
        features = find_features(manifest, spec)
        self._rooms = UsedRooms()
        self._indexes = ShardIndexes(storage, features.shards, spec)
        self.spec = _read_spec(storage, features, spec)
        self.codec = open_view_codec(self.spec)

    def share_source(self, other: "FeatureReader") -> None:
        """From now on, read shards where another reader of the same corpus does."""
        self._source = other._source

    def pin_memory(self) -> None:
        """From now on, read whole items to where a GPU of this process copies them from."""
        self._rooms = UsedRooms(is_pinned=True)

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
        return tuple(MediumFeatures(medium.patches, counts=medium.counts) for medium in stored)

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
        place = self._indexes.find(shard, key)
        if views == "all" and frames == ALL_FRAMES:
            return self._read_whole([place])[0]
        return self._retry(place.shard, lambda: self._read_chosen(place, views, frames))

    def read_with_class_rows(
        self, key: str, shard: str, *, views: ViewChoice = "all", frames: FramesConfig = ALL_FRAMES
    ) -> tuple[MediumFeatures, ...]:
        """The same, decoded, with the class row of each view, if the encoder has one; see `read_stored`."""
        place = self._indexes.find(shard, key)
        return self._retry(place.shard, lambda: self._read_with_class_rows(place, views, frames))

    def read_features(
        self,
        wanted: Sequence[tuple[str, str]],
        *,
        views: ViewChoice = "all",
        frames: FramesConfig = ALL_FRAMES,
    ) -> Sequence[tuple[MediumFeatures | StoredFeatures, ...]]:
        """What examples of items are given, by (shard, key) and in this order; see `read_stored`.

        Whole items are all read before the first is opened: copying drives this program's own memory out of
        the caches, and what opens one item opens the next while it is still there.
        """
        if views == "all" and frames == ALL_FRAMES:
            return self._read_whole([self._indexes.find(shard, key) for shard, key in wanted])
        return [self.read_stored(key, shard, views=views, frames=frames) for shard, key in wanted]

    def read_views(
        self, key: str, places: Sequence[int], *, shard: str
    ) -> Float16[Tensor, "views patches width"]:
        """Some views of an item, counted over all its media, and nothing else.

        Raises:
            CorruptError: naming shard and item, when the bytes are not those that were written.
            MismatchError: when they were made under another spec.
        """
        place = self._indexes.find(shard, key)
        with named_item(shard, key):
            header, head = self._open(place)
            sections = self._read_sections(place, header, places, head, check_section)
            return decode_views(self.codec, sections, header.num_patches, header.width)

    def list_shards(self) -> list[str]:
        """Names of the shards, in the order of the plan."""
        return [*self._indexes.shards]

    def list_keys(self, shard: str) -> list[str]:
        """The items of a shard, in order.

        Raises:
            NotFoundError: when there is no such shard.
        """
        return [*self._indexes.list_members(shard)]

    def read_shapes(self, key: str, *, shard: str) -> tuple[MediumShape, ...]:
        """How many views each medium of an item has.

        Raises:
            CorruptError: naming shard and item, when the header is not as it was written.
            MismatchError: when it was written under another spec.
        """
        with named_item(shard, key):
            return self._open(self._indexes.find(shard, key))[0].media

    def expect(self, shards: Sequence[str]) -> None:
        """Told which shards are read next; those without features are passed over."""
        known = self._indexes.shards
        self._source.expect([known[name].tar for name in shards if name in known])

    def count_bytes(self, shards: Sequence[str]) -> int:
        """What these shards take."""
        known = self._indexes.shards
        return sum(known[name].tar.num_bytes for name in shards if name in known)

    def find_shard(self, key: str) -> str:
        """The shard that holds an item, by searching the indexes.

        Raises:
            NotFoundError: when none does.
        """
        return self._indexes.find_shard(key)

    def _fill(self, span: Span, data: memoryview) -> None:
        check = SpanCheck(span, data)
        try:
            self._source.read_into(span.shard.tar, span.offset, data, check.see)
        except (CorruptError, NotFoundError) as error:
            raise CorruptError(f"shard {span.shard.name}, item {check.place.key}: {error}") from error
        finally:
            check.close()

    def _read_spans(self, places: Sequence[Place]) -> list[memoryview]:
        """The bytes of whole items, checked."""
        fetched: list[memoryview] = []
        for span in join_spans(places):
            data = self._rooms.take(span.num_bytes)
            self._retry(span.shard, lambda span=span, data=data: self._fill(span, data))
            fetched += span.cut(data)
        return fetched

    def _read_whole(self, places: Sequence[Place]) -> list[tuple[StoredFeatures, ...]]:
        found: list[tuple[StoredFeatures, ...]] = []
        for place, data in zip(places, self._read_spans(places), strict=True):
            with named_item(place.shard.name, place.key):
                header, payloads = self._open_whole(data)
            found.append(self._hand_out(header, choose_views(header.media, "all", ALL_FRAMES), payloads))
        return found

    def _open_whole(self, data: memoryview) -> tuple[FeatureHeader, list[memoryview]]:
        """Header and encoded views of an item that was checked."""
        header = read_header(data)
        self._accept(header)
        check_size(header, len(data))
        return header, cut_views(header, data)

    def _read_chosen(
        self, place: Place, views: ViewChoice, frames: FramesConfig
    ) -> tuple[StoredFeatures, ...]:
        with named_item(place.shard.name, place.key):
            header, head = self._open(place)
            chosen = choose_views(header.media, views, frames)
            places = [number for medium in chosen for number in medium.views]
            sections = self._read_sections(place, header, places, head, check_section)
            return self._hand_out(header, chosen, sections)

    def _read_with_class_rows(
        self, place: Place, views: ViewChoice, frames: FramesConfig
    ) -> tuple[MediumFeatures, ...]:
        with named_item(place.shard.name, place.key):
            header, head = self._open(place)
            chosen = choose_views(header.media, views, frames)
            places = [number for medium in chosen for number in medium.views]
            sections = self._read_sections(place, header, places, head, open_section)
            rows = iter([section.class_row for section in sections if section.class_row is not None])
            return tuple(
                MediumFeatures(stored.patches, _stack_rows(stored, rows), stored.counts)
                for stored in self._hand_out(header, chosen, [section.payload for section in sections])
            )

    def _retry(self, shard: ShardEntry, read: Callable[[], Read]) -> Read:
        """Once more, when the first bytes came from a damaged copy on this machine."""
        try:
            return read()
        except CorruptError:
            if not self._source.forget(shard.tar):
                raise
            return read()

    def _open(self, place: Place) -> tuple[FeatureHeader, bytes]:
        """The header of an item, and the first bytes that it came with."""
        member, tar = place.member, place.shard.tar
        head = self._source.read_range(tar, member.offset, min(member.size, HEAD_BYTES))
        length = measure_header(head[:PREFIX_BYTES])
        if len(head) < length <= member.size:
            head += self._source.read_range(tar, member.offset + len(head), length - len(head))
        header = read_header(head)
        self._accept(header)
        check_size(header, member.size)
        return header, head

    def _accept(self, header: FeatureHeader) -> None:
        if why := describe_mismatch(header, self.spec):
            raise MismatchError(f"a feature file {why}; featurize again")

    def _read_sections(
        self,
        place: Place,
        header: FeatureHeader,
        places: Sequence[int],
        head: bytes,
        open_one: Callable[[FeatureHeader, int, memoryview], Read],
    ) -> list[Read]:
        sections: list[Read] = []
        for first, last in find_runs(places):
            start, (offset, length) = view_range(header, first)[0], view_range(header, last)
            if offset + length <= len(head):
                data = memoryview(head)[start : offset + length]
            else:
                size = offset + length - start
                data = memoryview(self._source.read_range(place.shard.tar, place.member.offset + start, size))
            for number in range(first, last + 1):
                offset, length = view_range(header, number)
                sections.append(open_one(header, number, data[offset - start :][:length]))
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


def _stack_rows(
    stored: StoredFeatures, rows: Iterator[Float16[Tensor, " width"]]
) -> Float16[Tensor, "frames views width"] | None:
    """The class rows of a medium, the next of all; None where there are none."""
    own = [*islice(rows, len(stored.payloads))]
    if not own:
        return None
    return torch.stack(own).view(stored.num_frames, stored.views_per_frame, stored.width)
