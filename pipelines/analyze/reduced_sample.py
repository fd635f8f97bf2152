"""What reducers leave of a corpus's own views: some of its cache, reduced and written as a cache would be.

How many patches stand out depends on pictures and encoder, so what PruMerge leaves cannot be known from
shapes. A view is reduced from what its codec kept, which changes a few choices (see BENCHMARKS.md). Costs
some tens of milliseconds a view.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, zip_longest
from typing import Final, NamedTuple

from jaxtyping import Float
from torch import Tensor

from infra.storage import Storage
from operators.class_attention import AttentionWeights
from operators.codec import RaggedCodec, open_codec
from operators.reducers import Reducer, build_reducer, reduce_views
from pipelines.analyze.cache_size import BYTES_PER_HALF, REDUCERS, find_bounds
from pipelines.commit import read_object
from pipelines.featurize.attention import read_attention
from pipelines.stream.reader import FeatureReader
from schemas.corpus import Manifest
from schemas.feature import EncoderIdentity
from schemas.reducer import ReducerConfig
from schemas.stream import FramesConfig

NUM_VIEWS: Final = 40
NUM_SHARDS: Final = 8
"""Whose indexes are read; shards are random samples already."""
FIRST_FRAME: Final = FramesConfig(max=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledSize:
    """What one reducer left of the sample."""

    name: str
    num_views: int
    tokens: float
    """Of a view, on average."""
    num_bytes: int
    full_bytes: int
    """Of the same views with all patches; class rows count in both."""

    @property
    def share(self) -> float:
        """Of the full cache."""
        return self.num_bytes / self.full_bytes


def measure_on_cache(
    storage: Storage, manifest: Manifest, spec: str, num_views: int = NUM_VIEWS
) -> list[SampledSize]:
    """Every reducer that this encoder's views can be reduced by, each at its own number of tokens.

    Args:
        storage: the corpus.
        manifest: of the corpus.
        spec: short digest of a cache of all patches.
        num_views: at most; of clips the first frame.
    """
    reader = FeatureReader(storage, manifest, spec)
    weights = read_attention(read_object(storage, manifest.features[spec].attention))
    views = list(islice(_list_views(reader), num_views))
    codec, identity = open_codec(reader.spec.codec), reader.spec.encoder
    row_bytes = BYTES_PER_HALF * identity.width * identity.class_row
    full = sum(len(payload) + row_bytes for view in views for payload in codec.encode(view.patches[None]))
    sizes: list[SampledSize] = []
    for name in REDUCERS:
        reducer = build_reducer(ReducerConfig(name=name))
        if not _can_reduce(reducer, identity):
            continue
        tokens = [_reduce(reducer, view, weights) for view in views]
        written = RaggedCodec(codec).encode_tokens(tokens)
        sizes.append(
            SampledSize(
                name=name,
                num_views=len(views),
                tokens=sum(map(len, tokens)) / len(views),
                num_bytes=sum(len(payload) + row_bytes for payload in written),
                full_bytes=full,
            )
        )
    return sizes


class _View(NamedTuple):
    patches: Float[Tensor, "patches width"]
    class_row: Float[Tensor, " width"] | None


def _list_views(reader: FeatureReader) -> Iterator[_View]:
    """An item of every shard in turn."""
    shards = reader.list_shards()
    shards = shards[:: max(1, len(shards) // NUM_SHARDS)][:NUM_SHARDS]
    for keys in zip_longest(*(reader.list_keys(shard) for shard in shards)):
        for shard, key in zip(shards, keys, strict=True):
            if key is None:
                continue
            for medium in reader.read_with_class_rows(key, shard, frames=FIRST_FRAME):
                rows = None if medium.class_rows is None else medium.class_rows.flatten(0, 1)
                for number, patches in enumerate(medium.patches.flatten(0, 1)):
                    yield _View(patches, None if rows is None else rows[number])


def _can_reduce(reducer: Reducer, identity: EncoderIdentity) -> bool:
    has_focus = identity.class_row or not reducer.needs_focus
    return has_focus and find_bounds(reducer, identity.num_patches) is not None


def _reduce(reducer: Reducer, view: _View, weights: AttentionWeights) -> Float[Tensor, "tokens width"]:
    rows = None if view.class_row is None else view.class_row[None]
    (tokens,) = reduce_views(reducer, view.patches[None], rows, weights)
    return tokens
