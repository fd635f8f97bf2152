"""Reducers by name: from a user's settings to what computes."""

from collections.abc import Callable, Mapping
from typing import Final

from torch import nn

from operators.compressor import Compressor
from operators.positions import PositionMode
from operators.reducers.interface import Reducer
from operators.reducers.perceiver import PerceiverResampler
from operators.reducers.pooling import AveragePool
from operators.reducers.prumerge import PruMerge, ReleasedPruMerge
from operators.reducers.qformer import QFormer
from operators.reducers.sampling import KeepAll, SampleSequentially, SampleSpatially
from operators.reducers.tome import ToMe
from schemas.errors import ConfigError
from schemas.reducer import ReducerConfig


def build_reducer(config: ReducerConfig) -> Reducer:
    """A reducer without weights.

    Raises:
        ConfigError: the named reducer has weights, and must be trained with a model.
    """
    if config.name not in _BUILDERS:
        raise ConfigError(
            f"the reducer {config.name} is trained with a model and cannot stand alone; name one of "
            f"{', '.join(_BUILDERS)}"
        )
    return _BUILDERS[config.name](config)


def bound_frame_tokens(config: ReducerConfig, num_patches: int) -> int:
    """The most tokens that a reducer without weights leaves of a view.

    Raises:
        ConfigError: it has weights, or cannot reduce such a view.
    """
    return build_reducer(config).bound_tokens(num_patches).most


def build_trained_reducer(
    config: ReducerConfig, width: int, num_heads: int, *, grid: int = 1, positions: PositionMode = "published"
) -> nn.Module:
    """A reducer with fresh weights: [frames views patches width] to [frames queries width].

    Args:
        config: names it.
        width: of the encoder.
        num_heads: of all its attention.
        grid: C of the query compressor.
        positions: of the query compressor.

    Raises:
        ConfigError: the named reducer has no weights, or the width does not divide into heads.
    """
    match config.name:
        case "query":
            return Compressor(width, grid, num_heads, positions)
        case "qformer":
            return QFormer(width, config.num_tokens, config.num_layers, num_heads)
        case "perceiver":
            return PerceiverResampler(width, config.num_tokens, config.num_layers, num_heads)
        case _:
            raise ConfigError(f"the reducer {config.name} has nothing to train; it works as it is")


def _build_prumerge(config: ReducerConfig) -> Reducer:
    if config.variant == "released":
        is_plus = config.name == "prumerge_plus"
        return ReleasedPruMerge(neighbors=config.neighbors, merges=config.merge, samples=is_plus)
    share = config.share if config.name == "prumerge_plus" else None
    return PruMerge(neighbors=config.neighbors, merges=config.merge, share=share)


_BUILDERS: Final[Mapping[str, Callable[[ReducerConfig], Reducer]]] = {
    "all": lambda _: KeepAll(),
    "average": lambda config: AveragePool(num_tokens=config.num_tokens),
    "sequential": lambda config: SampleSequentially(num_tokens=config.num_tokens),
    "spatial": lambda config: SampleSpatially(num_tokens=config.num_tokens),
    "tome": lambda config: ToMe(num_tokens=config.num_tokens),
    "prumerge": _build_prumerge,
    "prumerge_plus": _build_prumerge,
}
