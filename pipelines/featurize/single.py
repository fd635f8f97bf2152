"""One medium by itself, encoded as a cache of the same spec holds it: for questions about new pictures.

The features pass through the codec and back, so an answer does not depend on whether they come from the cache
or from the encoder. They are bit-equal where the batch size is the cache's, else equal to rounding.
"""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from operators.batch import MediumFeatures
from operators.codec import decode_views, open_codec
from operators.preprocess import normalize_views
from operators.render import RenderedMedium
from pipelines.decode.isolated import IsolatedDecoder
from pipelines.featurize.spec import (
    check_same_spec,
    codec_config,
    describe_spec,
    open_encoder,
    render_policy,
    settings_of,
)
from pipelines.featurize.write import one_thread
from schemas.feature import FeatureSpec
from schemas.record import MediumKind

BATCH_SIZE = 5
"""One picture in high resolution."""


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
        check_same_spec(describe_spec(views, config, codec_config(spec), opened, spec.codec.statistics), spec)
        self._encoder = opened.encoder.to("cuda" if torch.cuda.is_available() else "cpu")
        self._policy = render_policy(views, opened)
        self._decoder = IsolatedDecoder(self._policy)
        self._batch_size = batch_size
        self._spec = spec

    def render(self, data: bytes, kind: MediumKind) -> RenderedMedium:
        """The views of a medium, from its encoded bytes.

        Raises:
            SampleError: when it does not decode.
        """
        return self._decoder.render(data, kind)

    def compute_patches(
        self, views: UInt8[np.ndarray, "views height width 3"]
    ) -> Float[Tensor, "views patches hidden"]:
        """What the encoder gives for views, on the CPU; no codec has seen it."""
        with one_thread():
            pixels = torch.as_tensor(normalize_views(views, self._policy.processor))
            return self._encoder.encode_fixed(pixels, self._batch_size).patches.cpu()

    def encode(self, data: bytes, kind: MediumKind) -> MediumFeatures:
        """The features of a medium, from its encoded bytes, as the cache would give them.

        Raises:
            SampleError: when it does not decode, or its features are not finite.
            MismatchError: when the codec is unknown here.
        """
        rendered = self.render(data, kind)
        patches = self.compute_patches(rendered.views)
        codec = open_codec(self._spec.codec)
        decoded = decode_views(codec, codec.encode(patches), patches.shape[1], patches.shape[2])
        grid = (rendered.num_frames, rendered.views_per_frame)
        return MediumFeatures(decoded.view(*grid, *decoded.shape[1:]))
