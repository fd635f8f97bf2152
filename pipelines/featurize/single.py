"""One medium by itself, encoded as a cache of the same spec holds it: for questions about new pictures.

The features pass through the codec and back, so an answer does not depend on whether they come from the cache
or from the encoder. They are bit-equal where the batch size is the cache's, else equal to rounding; on a CPU,
one thread computes and encodes as for a cache, and they are bit-equal.
"""

from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from operators.batch import MediumFeatures
from operators.codec import CPU, Codec, open_view_codec
from operators.preprocess import normalize_views
from operators.reducers import build_reducer
from operators.reducers.medium import MediumReducer
from operators.render import RenderedMedium
from operators.stored import StoredFeatures
from pipelines.decode.isolated import IsolatedDecoder
from pipelines.featurize.reduced import encode_views, make_reducer, open_reducer
from pipelines.featurize.spec import (
    check_same_spec,
    codec_config,
    describe_spec,
    open_encoder,
    reducer_config,
    render_policy,
    settings_of,
)
from pipelines.featurize.write import one_thread
from schemas.errors import ConfigError
from schemas.feature import FeatureSpec
from schemas.record import MediumKind
from schemas.reducer import ReducerConfig

BATCH_SIZE = 5
"""One picture in high resolution."""

Choose = Callable[[MediumFeatures], MediumFeatures]


def keep_all(features: MediumFeatures) -> MediumFeatures:
    """All views of a medium."""
    return features


class MediumEncoder:
    """Encodes media under one feature spec, on the CPU or on CUDA where there is one."""

    def __init__(self, spec: FeatureSpec, model: str, batch_size: int = BATCH_SIZE) -> None:
        """Open the encoder at `model`.

        Raises:
            NotFoundError: there is none.
            MismatchError: its features would be others than those of the spec.
        """
        views, config = settings_of(spec, model)
        opened = open_encoder(config)
        codec, statistics, reducer = codec_config(spec), spec.codec.statistics, reducer_config(spec)
        check_same_spec(describe_spec(views, config, codec, opened, statistics, reducer), spec)
        self._encoder = opened.encoder.to("cuda" if torch.cuda.is_available() else "cpu")
        self._policy = render_policy(views, opened)
        self._decoder = IsolatedDecoder(self._policy)
        self._batch_size = batch_size
        self._spec = spec
        held = open_reducer(spec, self._encoder)
        self._reducer = held and MediumReducer(held.reducer, held.weights and held.weights.to(CPU))

    @cached_property
    def _codec(self) -> Codec:
        """Not opened before it is needed: statistics are taken by an encoder whose codec waits for them."""
        return open_view_codec(self._spec)

    def render(self, data: bytes, kind: MediumKind) -> RenderedMedium:
        """The views of a medium, from its encoded bytes.

        Raises:
            SampleError: when it does not decode.
        """
        return self._decoder.render(data, kind)

    def compute_patches(
        self, views: UInt8[np.ndarray, "views height width 3"]
    ) -> Float[Tensor, "views patches hidden"]:
        """What the encoder gives for views, without their class rows; see `compute_views`."""
        return self.compute_views(views)[0]

    def compute_views(
        self, views: UInt8[np.ndarray, "views height width 3"]
    ) -> tuple[Float[Tensor, "views patches hidden"], Float[Tensor, "views hidden"] | None]:
        """What the encoder gives for views, on the CPU; no codec has seen it.

        Raises:
            ConfigError: the cache of the spec holds no patches, since it was reduced.
        """
        if self._reducer is not None:
            raise ConfigError(
                "these features were reduced before they were stored: they cannot be compared with patches "
                "or computed while training; use a cache without `reducer`"
            )
        return self._compute(views)

    def encode(self, data: bytes, kind: MediumKind, choose: Choose = keep_all) -> MediumFeatures:
        """The features of a medium, from its encoded bytes, as the cache would give them.

        Args:
            data: its bytes.
            kind: what it is.
            choose: the views that are wanted of all.

        Raises:
            SampleError: when it does not decode, or its features are not finite.
            MismatchError: when the codec is unknown here.
        """
        rendered = self.render(data, kind)
        patches, class_rows = self._compute(rendered.views)
        grid = (rendered.num_frames, rendered.views_per_frame)
        by_frame = None if class_rows is None else class_rows.view(*grid, -1)
        chosen = choose(MediumFeatures(patches.view(*grid, *patches.shape[1:]), by_frame))
        rows = chosen.class_rows
        flat_rows = None if rows is None else rows.flatten(0, 1)
        with one_thread():
            payloads = encode_views(self._codec, chosen.patches.flatten(0, 1), flat_rows, self._reducer)
        stored = StoredFeatures(
            payloads=tuple(payloads),
            num_frames=chosen.patches.shape[0],
            views_per_frame=chosen.patches.shape[1],
            num_patches=patches.shape[1],
            width=patches.shape[2],
            codec=self._codec,
        )
        if self._reducer is not None:
            return MediumFeatures(stored.patches, counts=stored.counts)
        return MediumFeatures(stored.patches, rows)

    def make_reducer(self, config: ReducerConfig) -> MediumReducer:
        """A reducer for what `encode` gives.

        Raises:
            ConfigError: the named reducer has weights, or its encoder no next layer.
        """
        weights = make_reducer(config, self._encoder).weights
        return MediumReducer(build_reducer(config), None if weights is None else weights.to(CPU))

    def _compute(
        self, views: UInt8[np.ndarray, "views height width 3"]
    ) -> tuple[Float[Tensor, "views patches hidden"], Float[Tensor, "views hidden"] | None]:
        with one_thread():
            pixels = torch.as_tensor(normalize_views(views, self._policy.processor))
            output = self._encoder.encode_fixed(pixels, self._batch_size)
        return output.patches.cpu(), None if output.class_row is None else output.class_row.cpu()
