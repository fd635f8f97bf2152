"""A corpus read once, as the model of a checkpoint takes its features: for what looks at a trained model.

Training opens its own stream, which knows of token counts, ranks and worker processes. Where the model's
reducer works while features are read, it works here too: a model that was trained on reduced tokens never
sees patches.
"""

from infra.storage import Storage
from pipelines.stream.reducing import ReducingReader
from pipelines.stream.stream import FeatureStream
from schemas.corpus import Manifest
from schemas.reducer import ReducerConfig
from schemas.stream import DataConfig


def open_once(
    storage: Storage, manifest: Manifest, spec: str, data: DataConfig, reducer: ReducerConfig, seed: int = 0
) -> FeatureStream:
    """One epoch for a model with this reducer.

    Raises:
        ConfigError: no example is left, or the reducer asks for a class token that the encoder does not have.
        NotFoundError: there are no features of this spec.
        MismatchError: they were reduced before they were stored, and the reducer needs patches.
    """
    stream = FeatureStream(storage, manifest, spec, data, seed=seed, num_epochs=1)
    if reducer.needs_focus:
        stream.reader = ReducingReader(storage, manifest, spec, reducer)
    return stream
