"""One medium from its bytes to what a model of a configuration reads: encoded, chosen, reduced."""

from functools import partial

from operators.batch import MediumFeatures
from pipelines.featurize.single import MediumEncoder
from pipelines.stream.selection import select_features
from schemas.record import MediumKind
from schemas.training import TrainConfig


def look_at(eyes: MediumEncoder, data: bytes, kind: MediumKind, config: TrainConfig) -> MediumFeatures:
    """The features of a medium, as the stream of a training run would give them.

    Raises:
        SampleError: when it does not decode, or its features are not finite.
        ConfigError: when the reducer cannot reduce such views.
    """
    choose = partial(select_features, views=config.data.views, frames=config.data.frames)
    features = eyes.encode(data, kind, choose)
    reducer = config.model.reducer
    return eyes.make_reducer(reducer).reduce(features) if reducer.needs_focus else features
