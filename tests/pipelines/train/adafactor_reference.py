"""Adafactor as its paper writes it: whole matrices in float64, nothing in blocks, nothing in place."""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class SlowAdafactor:
    """One parameter's."""

    weight: Tensor
    factored: bool
    weight_decay: float = 0.0
    moments: dict[str, Tensor] = field(default_factory=dict)

    def step(self, gradient: Tensor, rate: float, t: int) -> None:
        kept = 1 - t**-0.8
        squares = gradient.double() ** 2 + 1e-30
        if self.factored:
            row = self._blend("row", squares.mean(dim=1), kept)
            column = self._blend("column", squares.mean(dim=0), kept)
            second = torch.outer(row, column) / row.mean()
        else:
            second = self._blend("square", squares, kept)
        update = gradient.double() / second.sqrt()
        update = update / max(1.0, float(update.square().mean().sqrt()))
        self.weight = self.weight - rate * self.weight_decay * self.weight - rate * update

    def _blend(self, name: str, value: Tensor, kept: float) -> Tensor:
        self.moments[name] = kept * self.moments.get(name, torch.zeros_like(value)) + (1 - kept) * value
        return self.moments[name]
