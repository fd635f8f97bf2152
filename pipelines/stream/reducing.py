"""Features reduced while they are read: for reducers that ask what the class token looks at.

Class rows stand beside the patches of every view, the attention weights once beside the spec, so the cache of
all patches serves. Other reducers work in the model, where the patches are. Costs some milliseconds a view on
the core that reads, or tens where attention is recomputed; a reduced cache (`reducer` of a recipe) pays them
once.
"""

from collections.abc import Sequence

from infra.storage import Storage
from operators.batch import MediumFeatures
from operators.reducers import build_reducer
from operators.reducers.medium import MediumReducer
from pipelines.commit import read_object
from pipelines.featurize.attention import read_attention
from pipelines.featurize.reduced import check_class_row
from pipelines.stream.reader import ALL_FRAMES, FeatureReader
from pipelines.stream.selection import ViewChoice
from schemas.corpus import Manifest
from schemas.errors import MismatchError
from schemas.reducer import ReducerConfig
from schemas.stream import FramesConfig


class ReducingReader(FeatureReader):
    """Reads views with their class rows, and gives what a reducer makes of them."""

    def __init__(self, storage: Storage, manifest: Manifest, spec: str, config: ReducerConfig) -> None:
        """Open a cache of all patches.

        Raises:
            NotFoundError: the corpus has no features of this spec.
            MismatchError: they were reduced before they were stored.
            ConfigError: the named reducer has weights of its own, or asks for a class token that the encoder
                does not have.
        """
        super().__init__(storage, manifest, spec)
        if self.spec.reducer != "none":
            raise MismatchError(
                f"the features {spec} were reduced before they were stored; `reducer: {config.name}` needs a "
                "cache of all patches"
            )
        check_class_row(config, has_class_row=self.spec.encoder.class_row)
        weights = read_attention(read_object(storage, manifest.features[spec].attention))
        self._reducer = MediumReducer(build_reducer(config), weights)

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
        whole = self.read_with_class_rows(key, name, views=views, frames=frames)
        return tuple(self._reducer.reduce(medium) for medium in whole)

    def read_features(
        self,
        wanted: Sequence[tuple[str, str]],
        *,
        views: ViewChoice = "all",
        frames: FramesConfig = ALL_FRAMES,
    ) -> Sequence[tuple[MediumFeatures, ...]]:
        """See `FeatureReader.read_features`."""
        return [self.read_item(key, shard=shard, views=views, frames=frames) for shard, key in wanted]
