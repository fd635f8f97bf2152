"""Reducers put into a trained model without training: PruMerge's first claim, and a quick look at the others.

It works where a model reads patches, or tokens that stand for patches: one trained with all of them as
LLaVA-1.5 is, one of stage 1, or one with another reducer without weights. Queries that were trained cannot be
taken out again.
"""

from dataclasses import replace

from pipelines.train.checkpoint import Checkpoint
from schemas.errors import ConfigError
from schemas.reducer import ReducerConfig


def with_reducer(checkpoint: Checkpoint, reducer: ReducerConfig | None) -> Checkpoint:
    """The checkpoint with another reducer in its configuration; None: as it is.

    Raises:
        ConfigError: the reducer has weights, or the checkpoint was trained with one that has; or its features
            were reduced before they were stored.
    """
    if reducer is None:
        return checkpoint
    config = checkpoint.config
    if reducer.is_trained:
        raise ConfigError(f"reducer {reducer.name} has weights and has to be trained; name one without")
    if config.stage == 2 and config.model.reducer.is_trained:
        raise ConfigError(
            f"{checkpoint.folder} was trained with `reducer: {config.model.reducer.name}`, which cannot "
            "be taken out; use a checkpoint of `model: {reducer: all}`, or one of stage 1"
        )
    if checkpoint.state.identity.spec.reducer != "none":
        raise ConfigError(f"{checkpoint.folder} was trained on features that are reduced already")
    model = config.model.model_copy(update={"reducer": reducer})
    return replace(checkpoint, config=config.model_copy(update={"model": model}))
