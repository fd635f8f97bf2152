"""Features computed anew from the media of the sample shards, without any codec: the encoder in the loop.

For audits, and for training that compares itself with the cache. Views that are not asked for are cut, but
not encoded. A stream reads ahead on several threads; here they take turns, since one decoding process serves
one caller. Left out: several media in one batch of the encoder, so a GPU does less here than it could.
"""

import threading
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from infra.storage import Storage
from operators.batch import MediumFeatures
from operators.feature_file import MediumShape
from operators.reducers.medium import MediumReducer
from operators.render import RenderedMedium
from pipelines.featurize.samples import SampleShard, StoredMedium
from pipelines.featurize.single import MediumEncoder
from pipelines.stream.reader import ALL_FRAMES, FeatureReader
from pipelines.stream.selection import ViewChoice, choose_views
from schemas.corpus import Manifest
from schemas.errors import CorruptError, MismatchError, NotFoundError, SampleError
from schemas.feature import FeatureSpec
from schemas.record import MediumKind
from schemas.reducer import ReducerConfig
from schemas.stream import FramesConfig
from schemas.training import LiveConfig


class FreshFeatures:
    """Recomputes views of items, a medium at a time, for any thread; one sample shard's index is kept."""

    def __init__(self, storage: Storage, manifest: Manifest, encoder: MediumEncoder) -> None:
        self._storage = storage
        self._entries = {shard.name: shard for shard in manifest.shards}
        self._encoder = encoder
        self._opened: tuple[str, SampleShard] | None = None
        self._turn = threading.Lock()

    def compute_view(
        self, shard: str, key: str, media: tuple[MediumShape, ...], view: int
    ) -> Float[Tensor, "patches width"]:
        """One view of an item, counted over all its media.

        Raises:
            CorruptError: when the medium no longer decodes.
            MismatchError: when it decodes into another number of views.
            NotFoundError: when the corpus has no sample shards.
        """
        start = 0
        for position, shape in enumerate(media):
            if view < start + shape.num_views:
                with self._turn:
                    return self._compute(shard, key, position, view - start, shape)
            start += shape.num_views
        raise CorruptError(f"item {key} has {start} views, view {view} is none of them")

    def compute_item(
        self,
        shard: str,
        key: str,
        views: ViewChoice = "all",
        frames: FramesConfig = ALL_FRAMES,
        reducer: MediumReducer | None = None,
    ) -> tuple[MediumFeatures, ...]:
        """Chosen views of an item, by medium, rounded to fp16 as the codec of that name rounds.

        Args:
            shard: that the item stands in.
            key: of the item.
            views: of pictures.
            frames: of clips.
            reducer: what is made of them then; None: nothing.

        Raises:
            CorruptError: when a medium no longer decodes.
        """
        with self._turn:
            stored, data = self._open(shard).read_item(key)
            where = f"shard {shard}, item {key}: medium"
            rendered = [
                self._render(data[position], medium, f"{where} {position}")
                for position, medium in enumerate(stored.media)
            ]
            whole = [self._encode_chosen(medium, views, frames) for medium in rendered]
        if reducer is None:
            return tuple(MediumFeatures(medium.patches) for medium in whole)
        return tuple(reducer.reduce(medium) for medium in whole)

    def make_reducer(self, config: ReducerConfig) -> MediumReducer:
        """A reducer for what is computed here, with the attention weights of the encoder.

        Raises:
            ConfigError: the named reducer has weights of its own, or the encoder no next layer.
        """
        return self._encoder.make_reducer(config)

    def _encode_chosen(
        self, rendered: RenderedMedium, views: ViewChoice, frames: FramesConfig
    ) -> MediumFeatures:
        (chosen,) = choose_views([MediumShape(rendered.num_frames, rendered.views_per_frame)], views, frames)
        patches, rows = self._encoder.compute_views(rendered.views[list(chosen.views)])
        grid = (chosen.shape.num_frames, chosen.shape.views_per_frame)
        by_frame = None if rows is None else rows.to(torch.float16).view(*grid, -1)
        return MediumFeatures(patches.to(torch.float16).view(*grid, *patches.shape[1:]), by_frame)

    def _compute(
        self, shard: str, key: str, position: int, view: int, shape: MediumShape
    ) -> Float[Tensor, "patches width"]:
        stored, data = self._open(shard).read_item(key)
        where = f"shard {shard}, item {key}: medium {position}"
        rendered = self._render(data[position], stored.media[position], where)
        if MediumShape(rendered.num_frames, rendered.views_per_frame) != shape:
            raise MismatchError(
                f"{where} has {len(rendered.views)} views now, the cache {shape.num_views}; featurize again"
            )
        return self._encoder.compute_patches(rendered.views[view : view + 1])[0].float()

    def _render(self, data: bytes, medium: StoredMedium, where: str) -> RenderedMedium:
        try:
            return self._encoder.render(data, MediumKind(medium.kind))
        except SampleError as error:
            raise CorruptError(f"{where} no longer decodes: {error}") from error

    def _open(self, name: str) -> SampleShard:
        if name not in self._entries:
            raise NotFoundError(
                f"there is no sample shard {name} to recompute from; run `onetoken shard` first"
            )
        if self._opened is None or self._opened[0] != name:
            self._opened = (name, SampleShard(self._storage, self._entries[name]))
        return self._opened[1]


class FreshReader(FeatureReader):
    """Reads nothing from the cache: what it gives is computed anew."""

    def __init__(
        self,
        storage: Storage,
        manifest: Manifest,
        spec: str,
        fresh: FreshFeatures,
        reducer: MediumReducer | None = None,
    ) -> None:
        super().__init__(storage, manifest, spec)
        self._fresh = fresh
        self._reducer = reducer

    def share_source(self, other: FeatureReader) -> None:
        """Feature shards are not read, so none are fetched ahead either."""

    def read_item(
        self,
        key: str,
        *,
        shard: str | None = None,
        views: ViewChoice = "all",
        frames: FramesConfig = ALL_FRAMES,
    ) -> tuple[MediumFeatures, ...]:
        """See `FeatureReader.read_item`."""
        name = self.find_shard(key) if shard is None else shard
        return self._fresh.compute_item(name, key, views, frames, self._reducer)

    def read_features(
        self,
        wanted: Sequence[tuple[str, str]],
        *,
        views: ViewChoice = "all",
        frames: FramesConfig = ALL_FRAMES,
    ) -> Sequence[tuple[MediumFeatures, ...]]:
        """See `FeatureReader.read_features`."""
        return [self.read_item(key, shard=shard, views=views, frames=frames) for shard, key in wanted]


def open_fresh_reader(
    storage: Storage, manifest: Manifest, spec: FeatureSpec, live: LiveConfig
) -> FreshReader:
    """A reader that computes what the cache of a spec holds, with the encoder that made it.

    Raises:
        NotFoundError: there is no encoder.
        MismatchError: it, or this machine, would make other features.
    """
    encoder = live.encoder or manifest.features[spec.short_digest].encoder
    fresh = FreshFeatures(storage, manifest, MediumEncoder(spec, encoder, live.batch_size))
    return FreshReader(storage, manifest, spec.short_digest, fresh)
