"""Views that a reducer shortens before they are stored: the same whether for a cache or for one medium.

A view is reduced from what the encoder gave, its exact class row among it, by the encoder's own last layer;
the tokens then pass through the codec. So nothing that is lost in storing decides which tokens are kept.
"""

from typing import cast

from jaxtyping import Float
from torch import Tensor

from operators.clip import VisionEncoder
from operators.codec import Codec, RaggedCodec
from operators.codec.interface import check_finite
from operators.reducers import build_reducer, reduce_views
from operators.reducers.medium import MediumReducer
from schemas.errors import ConfigError
from schemas.feature import FeatureSpec
from schemas.reducer import ReducerConfig


def open_reducer(spec: FeatureSpec, encoder: VisionEncoder) -> MediumReducer | None:
    """The reducer of a spec, where its encoder computes; None: all patches are stored."""
    if spec.reducer == "none":
        return None
    return make_reducer(spec.reducer, encoder)


def make_reducer(config: ReducerConfig, encoder: VisionEncoder) -> MediumReducer:
    """A reducer for what an encoder gives.

    Raises:
        ConfigError: the named reducer has weights of its own; or it needs a focus, and the encoder has no
            class token or no layer that follows.
    """
    reducer = build_reducer(config)
    if not reducer.needs_focus:
        return MediumReducer(reducer)
    check_class_row(config, has_class_row=encoder.has_class_row)
    return MediumReducer(reducer, encoder.last_layer_attention_weights().to(encoder.device))


def check_class_row(config: ReducerConfig, *, has_class_row: bool) -> None:
    """See that a reducer that asks what the class token looks at can be answered.

    Raises:
        ConfigError: the encoder has no class token.
    """
    if config.needs_focus and not has_class_row:
        raise ConfigError(
            f"`reducer: {config.name}` asks what the class token looks at, and this encoder has none; use "
            "another reducer, or a CLIP encoder"
        )


def encode_views(
    codec: Codec,
    patches: Float[Tensor, "views patches width"],
    class_rows: Float[Tensor, "views width"] | None,
    reducer: MediumReducer | None,
) -> list[bytes]:
    """The bytes of each view, its patches reduced where there is a reducer.

    Raises:
        SampleError: `not_finite` for values that fp16 cannot hold, of tokens that are dropped, too.
    """
    if reducer is None:
        return codec.encode(patches)
    check_finite(patches)
    tokens = reduce_views(reducer.reducer, patches, class_rows, reducer.weights)
    return cast("RaggedCodec", codec).encode_tokens(tokens)
