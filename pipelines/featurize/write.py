"""One feature shard: the media of a sample shard through the encoder, once.

    KEY.feat.bin   features of all views, see `operators.feature_file`
    KEY.json       key, modality, media facts; of clips also frame times and what was damaged or left out

No conversation is here: a feature shard is a function of (media, spec), so mending a text never touches it.
Features that are there already are copied, see `pipelines.featurize.reuse`; only what is missing is encoded.
Items whose media do not decode are rejects of the spec, named in the commit record; the others go on.

Media are decoded in other processes, ahead of the encoder: one that breaks its process is a reject like
others. Torch runs on one thread meanwhile: sums must not depend on how many cores there are.
"""

import contextlib
import heapq
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from typing import Final

import msgspec
import torch

from infra.space import temporary_file
from infra.storage import Storage
from infra.tar import pack_index, write_shard
from operators.codec import Codec, open_view_codec
from operators.feature_file import MediumShape, pack_features
from operators.reducers.medium import MediumReducer
from operators.video import VideoReport
from pipelines.commit import FIRST_WINS, commit, find_commit, put_file, put_object
from pipelines.decode.isolated import IsolatedDecoder
from pipelines.decode.pool import DecoderPool
from pipelines.featurize.batches import EncodedItem
from pipelines.featurize.encoding import ItemEncoder, RenderedItem, Stopwatch
from pipelines.featurize.reduced import encode_views, open_reducer
from pipelines.featurize.reuse import Donor, PackedItem, StoredFeatures, count_clips, describe_item
from pipelines.featurize.samples import SampleShard
from pipelines.featurize.spec import check_same_spec, describe_spec, open_encoder, render_policy
from pipelines.featurize.units import FeatureUnit, fingerprint_features
from pipelines.shard.done import LeafDone
from pipelines.shard.tables import LeafReader, Tables
from schemas.corpus import CommitRecord, FeatureReject
from schemas.errors import FatalError, RejectCode, SampleError
from schemas.feature import FeatureSpec
from schemas.recipe import Recipe

COUNTED: Final[tuple[str, ...]] = ("items", "views", "thinned_clips", "damaged_clips")
"""What a commit record tells the number of."""

_REUSED: Final = "reused"
_KILLED: Final = SampleError(RejectCode.WORKER_CRASH, "it killed the processes that were to encode it")


@dataclass(frozen=True, slots=True)
class EncodeWorker:
    """Builds the encoding function inside a worker."""

    storage: Storage
    recipe: Recipe
    spec: FeatureSpec
    tables: Tables
    num_decoders: int = 1
    """Processes that decode media for one encoder."""
    donors: tuple[Donor, ...] = ()
    """Caches of the same spec to copy features from, the first that has them."""

    def build(self) -> Callable[[FeatureUnit], LeafDone]:
        """See `Worker.build`.

        Raises:
            MismatchError: when this machine would make other features than the driver's.
        """
        recipe = self.recipe
        opened = open_encoder(recipe.encoder)
        statistics = self.spec.codec.statistics
        found = describe_spec(recipe.views, recipe.encoder, recipe.codec, opened, statistics, recipe.reducer)
        check_same_spec(found, self.spec)
        opened.encoder.to("cuda" if torch.cuda.is_available() else "cpu")
        make_decoder = partial(IsolatedDecoder, render_policy(recipe.views, opened))
        pool = DecoderPool(make_decoder, self.num_decoders)
        items = ItemEncoder(opened.encoder, opened.processor, pool, recipe.encoder.batch_size)
        reader = LeafReader(self.storage, self.tables)
        codec = open_view_codec(self.spec)
        reducer = open_reducer(self.spec, opened.encoder)
        stored = [StoredFeatures(donor, self.spec) for donor in self.donors]
        return _ShardEncoder(
            self.storage, recipe, self.spec, reader, items, codec, stored, reducer
        ).encode_unit

    def divide(self, unit: FeatureUnit) -> Sequence[FeatureUnit]:
        """See `Divisible.divide`."""
        keys = SampleShard(self.storage, unit.shard).list_keys()
        return [replace(unit, only_key=key) for key in keys]

    def exclude(self, unit: FeatureUnit, killers: Sequence[FeatureUnit]) -> FeatureUnit:
        """See `Divisible.exclude`."""
        return replace(unit, killers=tuple(part.only_key for part in killers if part.only_key))


@dataclass(frozen=True, slots=True)
class _ShardEncoder:
    storage: Storage
    recipe: Recipe
    spec: FeatureSpec
    tables: LeafReader
    items: ItemEncoder
    codec: Codec
    stored: Sequence[StoredFeatures]
    reducer: MediumReducer | None

    def encode_unit(self, unit: FeatureUnit) -> LeafDone:
        """Encode a leaf; or try one item of it, for which the record is empty and stands nowhere."""
        stopwatch = Stopwatch(self.items.encoder.device)
        if unit.only_key is not None:
            with one_thread():
                for _ in self._members(unit, [], Counter(), stopwatch):
                    pass
            return LeafDone(CommitRecord(unit=unit.name, fingerprint="", objects=[]))
        fingerprint = fingerprint_features(self.tables, unit.leaf, self.spec)
        if found := find_commit(self.storage, unit.name, fingerprint):
            return LeafDone(found, is_new=False)
        counts: Counter[str] = Counter(dict.fromkeys((*COUNTED, _REUSED), 0))
        record = self._encode_shard(unit, fingerprint, counts, stopwatch)
        return LeafDone(
            record, num_views_reused=counts[_REUSED], used=stopwatch.read(self.items.pool.num_decoders)
        )

    def _encode_shard(
        self, unit: FeatureUnit, fingerprint: str, counts: Counter[str], stopwatch: Stopwatch
    ) -> CommitRecord:
        """Encode the items of a leaf, write their shard and commit it."""
        rejects: list[FeatureReject] = []
        folder = f"features/{self.spec.short_digest}"
        with one_thread(), temporary_file() as file:
            written = write_shard(self._members(unit, rejects, counts, stopwatch), file)
            tar = put_file(self.storage, folder, unit.leaf.name, "tar", file, written.sha256, counts["items"])
        index = put_object(
            self.storage, folder, unit.leaf.name, "idx", pack_index(written.members), len(written.members)
        )
        if counts["items"] + len(rejects) != unit.leaf.num_items:
            raise FatalError(
                f"{unit.leaf.name}: {unit.leaf.num_items} items were planned, {counts['items']} encoded and "
                f"{len(rejects)} rejected; this is a fault of the program, nothing was committed"
            )
        record = CommitRecord(
            unit=unit.name,
            fingerprint=fingerprint,
            objects=[tar, index],
            counts={name: counts[name] for name in COUNTED},
            rejects=sorted(rejects, key=lambda reject: reject.key),
            environment=self._describe_environment(),
        )
        return commit(self.storage, record, when_beaten=FIRST_WINS)

    def _members(
        self, unit: FeatureUnit, rejects: list[FeatureReject], counts: Counter[str], stopwatch: Stopwatch
    ) -> Iterator[tuple[str, bytes]]:
        shard = SampleShard(self.storage, unit.shard)
        keys = shard.list_keys() if unit.only_key is None else [unit.only_key]
        killers = set(unit.killers)
        rejects += [_reject(key, _KILLED) for key in keys if key in killers]
        donors = {} if unit.only_key else self._find_donors(shard, keys, unit)
        missing = [key for key in keys if key not in killers and key not in donors]
        with self.items.encode(shard, missing, rejects, stopwatch) as items:
            encoded = self._pack_items(items, rejects)
            reused = ((key, donor.read(shard.read_facts(key))) for key, donor in donors.items())
            for key, item in heapq.merge(encoded, reused, key=itemgetter(0)):
                counts.update(item.counts)
                counts["items"] += 1
                counts["views"] += item.num_views
                counts[_REUSED] += item.num_views if key in donors else 0
                yield f"{key}.feat.bin", item.packed
                yield f"{key}.json", item.facts

    def _find_donors(
        self, shard: SampleShard, keys: Sequence[str], unit: FeatureUnit
    ) -> dict[str, StoredFeatures]:
        """Of the items whose features are there already, in order, where that is."""
        donors: dict[str, StoredFeatures] = {}
        for key in keys:
            holding = (one for one in self.stored if one.holds(shard, key, unit.leaf.modality))
            if key not in unit.killers and (donor := next(holding, None)):
                donors[key] = donor
        return donors

    def _pack_items(
        self, items: Iterator[EncodedItem[RenderedItem]], rejects: list[FeatureReject]
    ) -> Iterator[tuple[str, PackedItem]]:
        for item in items:
            key = item.owner.stored.key
            try:
                packed = self._pack(item)
            except SampleError as error:
                rejects.append(_reject(key, error))
                continue
            facts = describe_media(item.owner)
            yield (
                key,
                PackedItem(
                    packed, describe_item(item.owner.stored, facts), len(item.patches), count_clips(facts)
                ),
            )

    def _pack(self, item: EncodedItem[RenderedItem]) -> bytes:
        class_rows = None if item.class_rows is None else item.class_rows.to("cpu", torch.float16)
        if class_rows is not None and not bool(torch.isfinite(class_rows).all()):
            raise SampleError(RejectCode.NOT_FINITE, "the class row of a view is not finite, or beyond fp16")
        return pack_features(
            encode_views(self.codec, item.patches, item.class_rows, self.reducer),
            class_rows,
            media=[MediumShape(medium.num_frames, medium.views_per_frame) for medium in item.owner.media],
            codec=self.spec.codec.name,
            codec_version=self.spec.codec.version,
            num_patches=self.spec.encoder.num_patches,
            width=self.spec.encoder.width,
        )

    def _describe_environment(self) -> dict[str, str]:
        device = self.items.encoder.device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else _describe_cpu()
        batch_size = str(self.recipe.encoder.batch_size)
        return {"device": name, "torch": torch.__version__, "batch_size": batch_size}


def describe_media(item: RenderedItem) -> list[dict[str, object]]:
    """What is told of each medium of an item beside its features."""
    media: list[dict[str, object]] = []
    for stored, rendered in zip(item.stored.media, item.media, strict=True):
        facts: dict[str, object] = msgspec.to_builtins(stored)
        if rendered.report is not None:
            facts |= describe_clip(rendered.frame_times_s, rendered.report)
        media.append(facts)
    return media


def describe_clip(frame_times_s: Sequence[float], report: VideoReport) -> dict[str, object]:
    """What reading a clip showed: when its views are, what was damaged, and what was left out."""
    return {
        "frame_times_s": [round(time_s, 6) for time_s in frame_times_s],
        "backend": report.backend,
        "num_packets": report.num_packets,
        "num_damaged_packets": report.num_damaged,
        "num_concealed_views": report.num_concealed,
        "num_frames_left_out": report.num_left_out,
    }


@contextlib.contextmanager
def one_thread() -> Generator[None]:
    """Torch on one thread, for as long as the block runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _reject(key: str, error: SampleError) -> FeatureReject:
    return FeatureReject(key=key, code=error.code.value, message=error.message)


def _describe_cpu() -> str:
    return f"cpu {torch.backends.cpu.get_cpu_capability()}"
