"""Average pooling: each token is the mean of a cell of the view's grid.

The baseline of LLaVA-Mini's ablation (section 5.4, table 8). Cells are those of torch's adaptive pooling:
cell i of n covers rows floor(i S / n) to ceil((i + 1) S / n), so they overlap where n does not divide S.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from operators.positions import side_of
from operators.reducers.interface import TokenBounds, ViewFeatures
from operators.reducers.places import factor_grid


@dataclass(frozen=True, slots=True, kw_only=True)
class AveragePool:
    """Means over a grid of cells, row by row; 40 tokens are 5 x 8 cells."""

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
        """The same weight for each patch of a cell."""
        side = side_of(view.patches.shape[0])
        rows, columns = factor_grid(self.num_tokens, side)
        device = view.patches.device
        by_row, by_column = _average_cells(rows, side, device), _average_cells(columns, side, device)
        return torch.kron(by_row, by_column)


def _average_cells(num_cells: int, side: int, device: torch.device) -> Float[Tensor, "cells side"]:
    cells = torch.arange(num_cells, device=device)
    first = cells * side // num_cells
    last = -(-(cells + 1) * side // num_cells)
    places = torch.arange(side, device=device)
    is_inside = (places >= first[:, None]) & (places < last[:, None])
    return is_inside.float() / (last - first)[:, None]
