"""One feature shard: the media of a sample shard through the encoder, once.

    KEY.feat.bin   features of all views, see `operators.feature_file`
    KEY.json       key, modality, media facts; of clips also frame times and what was damaged or left out

No conversation is here: a feature shard is a function of (media, spec), so mending a text never touches it.
Items whose media do not decode are rejects of the spec, named in the commit record; the others go on.

Media are decoded in another process (`pipelines.decode`): one that breaks it is a reject like others.

Torch runs on one thread meanwhile: sums must not depend on how many cores a worker has. Media are read and
encoded item by item; what is held is one batch of views and the features of the items in it.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import msgspec
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from infra.space import temporary_file
from infra.storage import Storage
from infra.tar import pack_index, write_shard
from operators.codec import Codec, open_codec
from operators.feature_file import MediumShape, pack_features
from operators.preprocess import normalize_views
from operators.render import RenderedMedium, RenderPolicy
from operators.video import VideoReport
from pipelines.commit import FIRST_WINS, commit, find_commit, put_file, put_object
from pipelines.decode.isolated import IsolatedDecoder
from pipelines.featurize.batches import EncodedItem, ViewArray, encode_items
from pipelines.featurize.samples import StoredItem, list_keys, read_sample_items
from pipelines.featurize.spec import (
    OpenedEncoder,
    check_same_spec,
    describe_spec,
    open_encoder,
    render_policy,
)
from pipelines.featurize.units import FeatureUnit, fingerprint_features
from pipelines.shard.done import LeafDone
from pipelines.shard.tables import LeafReader, Tables
from schemas.corpus import CommitRecord, FeatureReject
from schemas.digest import canonical_json
from schemas.errors import FatalError, RejectCode, SampleError, WorkError
from schemas.feature import FeatureSpec
from schemas.recipe import Recipe
from schemas.record import MediumKind

COUNTED: Final[tuple[str, ...]] = ("items", "views", "thinned_clips", "damaged_clips")
"""What a commit record tells the number of."""

_KILLED: Final = SampleError(RejectCode.WORKER_CRASH, "it killed the processes that were to encode it")


@dataclass(frozen=True, slots=True)
class RenderedItem:
    """An item whose media decoded, on its way through the encoder."""

    stored: StoredItem
    media: tuple[RenderedMedium, ...]


@dataclass(frozen=True, slots=True)
class EncodeWorker:
    """Builds the encoding function inside a worker."""

    storage: Storage
    recipe: Recipe
    spec: FeatureSpec
    tables: Tables

    def build(self) -> Callable[[FeatureUnit], LeafDone]:
        """See `Worker.build`.

        Raises:
            MismatchError: when this machine would make other features than the driver's.
        """
        recipe = self.recipe
        opened = open_encoder(recipe.encoder)
        statistics = self.spec.codec.statistics
        found = describe_spec(recipe.views, recipe.encoder, recipe.codec, opened, statistics)
        check_same_spec(found, self.spec)
        opened.encoder.to("cuda" if torch.cuda.is_available() else "cpu")
        reader = LeafReader(self.storage, self.tables)
        return _ShardEncoder(self.storage, self.recipe, self.spec, reader, opened).encode_unit

    def divide(self, unit: FeatureUnit) -> Sequence[FeatureUnit]:
        """See `Divisible.divide`."""
        return [replace(unit, only_key=key) for key in list_keys(self.storage, unit.shard)]

    def exclude(self, unit: FeatureUnit, killers: Sequence[FeatureUnit]) -> FeatureUnit:
        """See `Divisible.exclude`."""
        return replace(unit, killers=tuple(part.only_key for part in killers if part.only_key))


@dataclass(slots=True)
class _ShardEncoder:
    storage: Storage
    recipe: Recipe
    spec: FeatureSpec
    tables: LeafReader
    opened: OpenedEncoder
    policy: RenderPolicy = field(init=False)
    codec: Codec = field(init=False)
    decoder: IsolatedDecoder = field(init=False)

    def __post_init__(self) -> None:
        self.policy = render_policy(self.recipe.views, self.opened)
        self.decoder = IsolatedDecoder(self.policy)
        self.codec = open_codec(self.spec.codec)

    def encode_unit(self, unit: FeatureUnit) -> LeafDone:
        """Encode a leaf; or try one item of it, for which the record is empty and stands nowhere."""
        if unit.only_key is not None:
            with one_thread():
                for _ in self._members(unit, [], Counter()):
                    pass
            return LeafDone(CommitRecord(unit=unit.name, fingerprint="", objects=[]))
        fingerprint = fingerprint_features(self.tables, unit.leaf, self.spec)
        if found := find_commit(self.storage, unit.name, fingerprint):
            return LeafDone(found, is_new=False)
        return LeafDone(self._encode_shard(unit, fingerprint))

    def _encode_shard(self, unit: FeatureUnit, fingerprint: str) -> CommitRecord:
        """Encode the items of a leaf, write their shard and commit it."""
        rejects: list[FeatureReject] = []
        folder = f"features/{self.spec.short_digest}"
        counts: Counter[str] = Counter(dict.fromkeys(COUNTED, 0))
        with one_thread(), temporary_file() as file:
            written = write_shard(self._members(unit, rejects, counts), file)
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
            counts=counts,
            rejects=sorted(rejects, key=lambda reject: reject.key),
            environment=self._describe_environment(),
        )
        return commit(self.storage, record, when_beaten=FIRST_WINS)

    def _members(
        self, unit: FeatureUnit, rejects: list[FeatureReject], counts: Counter[str]
    ) -> Iterator[tuple[str, bytes]]:
        items = self._render_items(unit, rejects)
        for item in encode_items(items, self._encode, self.recipe.encoder.batch_size):
            try:
                packed = self._pack(item)
            except SampleError as error:
                rejects.append(_reject(item.owner.stored.key, error))
                continue
            counts["items"] += 1
            counts["views"] += len(item.patches)
            counts.update(_count_clips(item.owner.media))
            yield f"{item.owner.stored.key}.feat.bin", packed
            yield f"{item.owner.stored.key}.json", describe_item(item.owner)

    def _render_items(
        self, unit: FeatureUnit, rejects: list[FeatureReject]
    ) -> Iterator[tuple[RenderedItem, ViewArray]]:
        keys = None if unit.only_key is None else (unit.only_key,)
        for stored, data in read_sample_items(self.storage, unit.shard, keys):
            if stored.key in unit.killers:
                rejects.append(_reject(stored.key, _KILLED))
                continue
            try:
                media = tuple(
                    self.decoder.render(medium_data, MediumKind(medium.kind))
                    for medium, medium_data in zip(stored.media, data, strict=True)
                )
            except SampleError as error:
                rejects.append(_reject(stored.key, error))
                continue
            yield RenderedItem(stored, media), np.concatenate([medium.views for medium in media])

    def _encode(
        self, views: UInt8[np.ndarray, "views height width 3"]
    ) -> tuple[Float[Tensor, "views patches hidden"], Float[Tensor, "views hidden"]]:
        pixels = torch.as_tensor(normalize_views(views, self.policy.processor))
        output = self.opened.encoder.encode_fixed(pixels, self.recipe.encoder.batch_size)
        if output.class_row is None:
            raise WorkError("the encoder gave no class row")
        return output.patches.cpu(), output.class_row.cpu()

    def _pack(self, item: EncodedItem[RenderedItem]) -> bytes:
        class_rows = item.class_rows.to(torch.float16)
        if not bool(torch.isfinite(class_rows).all()):
            raise SampleError(RejectCode.NOT_FINITE, "the class row of a view is not finite, or beyond fp16")
        return pack_features(
            self.codec.encode(item.patches),
            class_rows,
            media=[MediumShape(medium.num_frames, medium.views_per_frame) for medium in item.owner.media],
            codec=self.spec.codec.name,
            codec_version=self.spec.codec.version,
            num_patches=self.spec.encoder.num_patches,
        )

    def _describe_environment(self) -> dict[str, str]:
        device = self.opened.encoder.device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else _describe_cpu()
        batch_size = str(self.recipe.encoder.batch_size)
        return {"device": name, "torch": torch.__version__, "batch_size": batch_size}


def describe_item(item: RenderedItem) -> bytes:
    """What stands in `KEY.json` of a feature shard: canonical, no conversation."""
    media: list[dict[str, object]] = []
    for stored, rendered in zip(item.stored.media, item.media, strict=True):
        facts: dict[str, object] = msgspec.to_builtins(stored)
        if rendered.report is not None:
            facts |= describe_clip(rendered.frame_times_s, rendered.report)
        media.append(facts)
    return canonical_json({"key": item.stored.key, "modality": item.stored.modality, "media": media})


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


def _count_clips(media: Sequence[RenderedMedium]) -> dict[str, int]:
    """What the totals tell of clips."""
    reports = [medium.report for medium in media if medium.report is not None]
    return {
        "thinned_clips": sum(report.num_left_out > 0 for report in reports),
        "damaged_clips": sum(report.num_damaged > 0 for report in reports),
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
