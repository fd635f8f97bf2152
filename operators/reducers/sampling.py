"""Patches taken as they are: all of them, the first, or a grid of them.

`sequential` and `spatial` are the baselines of PruMerge's ablation (Shang et al. 2024, section 4.4): the
first N patches in reading order, and N spread over the picture in rows and columns (40 as 5 x 8).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from operators.positions import side_of
from operators.reducers.interface import TokenBounds, ViewFeatures
from operators.reducers.places import factor_grid, select_places, spread_places
from schemas.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepAll:
    """Every patch, as LLaVA-1.5 does."""

    needs_focus: bool = False

    def bound_tokens(self, num_patches: int) -> TokenBounds:
        """All."""
        return TokenBounds(num_patches, num_patches)

    def weigh(self, view: ViewFeatures) -> Float[Tensor, "tokens patches"]:
        """Each patch by itself."""
        return torch.eye(view.patches.shape[0], device=view.patches.device)


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSequentially:
    """The first patches in reading order."""

    num_tokens: int
    needs_focus: bool = False

    def bound_tokens(self, num_patches: int) -> TokenBounds:
        """As many as are asked for.

        Raises:
            ConfigError: a view has fewer.
        """
        require_enough(self.num_tokens, num_patches)
        return TokenBounds(self.num_tokens, self.num_tokens)

    def weigh(self, view: ViewFeatures) -> Float[Tensor, "tokens patches"]:
        """One patch each."""
        num_patches = view.patches.shape[0]
        require_enough(self.num_tokens, num_patches)
        return select_places(torch.arange(self.num_tokens, device=view.patches.device), num_patches)


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSpatially:
    """The middle patch of each cell of a grid, row by row."""

    num_tokens: int
    needs_focus: bool = False

    def bound_tokens(self, num_patches: int) -> TokenBounds:
        """As many as are asked for.

        Raises:
            ConfigError: they make no grid within the view.
        """
        factor_grid(self.num_tokens, side_of(num_patches))
        return TokenBounds(self.num_tokens, self.num_tokens)

    def weigh(self, view: ViewFeatures) -> Float[Tensor, "tokens patches"]:
        """One patch each."""
        num_patches = view.patches.shape[0]
        side = side_of(num_patches)
        rows, columns = factor_grid(self.num_tokens, side)
        places = spread_places(rows, side)[:, None] * side + spread_places(columns, side)
        return select_places(places.flatten().to(view.patches.device), num_patches)


def require_enough(num_tokens: int, num_patches: int) -> None:
    """Refuse to make more tokens than a view has patches.

    Raises:
        ConfigError: it would.
    """
    if num_tokens > num_patches:
        raise ConfigError(
            f"{num_tokens} tokens are asked for of views of {num_patches} patches; lower `tokens`"
        )
