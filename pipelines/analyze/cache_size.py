"""What a view takes in the cache, by codec and by reducer: each measured by writing one.

The codecs `fp16` and `int8` take the same for every view. `compact` packs: it is measured on normal numbers,
which its step turns into as many symbols as real channels in their own spread. Class rows count, tars and
indexes (below 1 %) do not.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch

from operators.codec import identify_codec, open_codec
from operators.reducers import Reducer, bound_frame_tokens, build_reducer
from operators.reducers.interface import TokenBounds
from pipelines.featurize.statistics import measure_statistics
from schemas.errors import ConfigError
from schemas.recipe import CodecConfig, Recipe
from schemas.reducer import ReducerConfig, ReducerName

PATCHES: Final = 576
WIDTH: Final = 1024
BYTES_PER_HALF: Final = 2
REDUCERS: Final[tuple[ReducerName, ...]] = (
    "average",
    "sequential",
    "spatial",
    "tome",
    "prumerge",
    "prumerge_plus",
)
"""Those without weights: their tokens can be cached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReducedSize:
    """What a reducer leaves of a view."""

    name: str
    fewest_tokens: int
    most_tokens: int
    fewest_bytes: int
    most_bytes: int
    full_bytes: int

    @property
    def share(self) -> tuple[float, float]:
        """Of the full view, least and most."""
        return self.fewest_bytes / self.full_bytes, self.most_bytes / self.full_bytes


def measure_view_bytes(codec: CodecConfig, tokens: int = PATCHES, width: int = WIDTH) -> int:
    """One view of so many tokens, its class row included.

    Raises:
        MismatchError: there is no such codec.
    """
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(1, tokens, width, generator=generator)
    statistics = measure_statistics(torch.randn(512, width, generator=generator), 1)
    opened = open_codec(identify_codec(codec.name, codec.step, statistics))
    (payload,) = opened.encode(drawn)
    return len(payload) + BYTES_PER_HALF * width


def measure_cached_view(recipe: Recipe, patches: int = PATCHES, width: int = WIDTH) -> int:
    """What a view of a recipe takes in its cache; at most, where a reducer's tokens depend on the picture.

    Raises:
        MismatchError: there is no such codec.
        ConfigError: the reducer cannot reduce such a view.
    """
    tokens = patches if recipe.reducer is None else bound_frame_tokens(recipe.reducer, patches)
    return measure_view_bytes(recipe.codec, tokens, width)


def measure_reduced(codec: CodecConfig, patches: int = PATCHES, width: int = WIDTH) -> Iterator[ReducedSize]:
    """What each reducer without weights leaves, at its own number of tokens; where views have so many."""
    full = measure_view_bytes(codec, patches, width)
    for name in REDUCERS:
        bounds = find_bounds(build_reducer(ReducerConfig(name=name)), patches)
        if bounds is None:
            continue
        sizes = [measure_view_bytes(codec, tokens, width) for tokens in (bounds.fewest, bounds.most)]
        yield ReducedSize(
            name=name,
            fewest_tokens=bounds.fewest,
            most_tokens=bounds.most,
            fewest_bytes=sizes[0],
            most_bytes=sizes[1],
            full_bytes=full,
        )


def find_bounds(reducer: Reducer, patches: int) -> TokenBounds | None:
    """How many tokens are left of a view; None: it cannot be reduced so."""
    try:
        return reducer.bound_tokens(patches)
    except ConfigError:
        return None
