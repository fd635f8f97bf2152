"""Adafactor for one parameter: Adam's scale of steps from two vectors a matrix, without momentum.

Shazeer and Stern 2018 (arXiv 1804.04235): the second moment of a matrix is the product of its rows' and
columns' means (algorithm 4), forgetting slows down as 1 - t^-0.8 (section 7.2), and an update whose root mean
square exceeds 1 is scaled down to it (section 6). The rate is absolute, not relative to the weight's size
(section 8), so that rates mean what they mean for AdamW, and layers that start at zero move at all.

State is float32 and takes 0.004 bytes a parameter. A large weight is worked on in blocks of rows, so that no
copy of it in float32 ever exists; gradients are read three times for that. Weights in bfloat16 are rounded
stochastically. Leaves out: scalars, which no Llama-like model trains.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pipelines.train.rounding import round_stochastically, seed_generator

Moments = dict[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Adafactor:
    """The rule of one step; what differs between parameters stands in their states."""

    seed: int = 0
    """Of the rounding."""
    decay_power: float = 0.8
    """The second moment forgets 1 - t^-decay_power of itself at step t."""
    epsilon: float = 1e-30
    """Added to squared gradients."""
    clip_rms: float = 1.0
    """Root mean square that no update of a parameter exceeds, before the rate."""
    weight_decay: float = 0.0
    min_factored_side: int = 128
    """Of a matrix with a shorter side the whole second moment is kept."""
    block_elements: int = 2**24
    """Elements that are worked on at once."""

    def make_state(self, weight: Float[Tensor, "*shape"]) -> Moments:
        """The moments before the first step, on the parameter's device."""
        if weight.ndim == 2 and min(weight.shape) >= self.min_factored_side:
            rows, columns = (weight.new_zeros(length, dtype=torch.float32) for length in weight.shape)
            return {"row": rows, "column": columns}
        return {"square": torch.zeros_like(weight, dtype=torch.float32)}

    def open_state(self, state: Moments) -> Mapping[str, Tensor]:
        """The tensors of a state, by name."""
        return state

    def move(
        self,
        name: str,
        weight: Float[Tensor, "*shape"],
        gradient: Float[Tensor, "*shape"],
        state: Moments,
        rate: float,
        num_steps: int,
    ) -> None:
        """Take a step, in place.

        Args:
            name: of the parameter; seeds the rounding.
            weight: in bfloat16 it is rounded stochastically, in float32 not at all.
            gradient: of the weight.
            state: as `make_state` gave it; is updated.
            rate: of this step.
            num_steps: steps of this parameter, this one included.
        """
        self._update_moments(gradient, state, num_steps**-self.decay_power)
        column_scales = _column_scales(state)
        square = gradient.new_zeros((), dtype=torch.float32)
        for rows in self._blocks(weight):
            square += _scale(gradient, state, column_scales, rows).square_().sum()
        length = (square / weight.numel()).sqrt() / self.clip_rms
        factor = rate / length.clamp(min=1.0)
        generator = seed_generator(weight.device, self.seed, num_steps, name)
        for rows in self._blocks(weight):
            update = _scale(gradient, state, column_scales, rows).mul_(factor)
            moved = weight[rows].to(torch.float32, copy=True).mul_(1 - rate * self.weight_decay).sub_(update)
            if weight.dtype is torch.bfloat16:
                weight[rows] = round_stochastically(moved, generator)
            else:
                weight[rows] = moved

    def _blocks(self, weight: Tensor) -> Iterator[slice]:
        """Runs of rows of a weight."""
        size = max(1, self.block_elements // max(1, weight[0].numel()))
        for first in range(0, len(weight), size):
            yield slice(first, first + size)

    def _update_moments(self, gradient: Tensor, state: Moments, forgotten: float) -> None:
        """Blend the gradient's squares into the second moment."""
        columns = torch.zeros_like(state["column"]) if "column" in state else None
        for rows in self._blocks(gradient):
            squares = gradient[rows].to(torch.float32, copy=True).square_().add_(self.epsilon)
            if columns is None:
                state["square"][rows].lerp_(squares, forgotten)
            else:
                state["row"][rows].lerp_(squares.mean(dim=1), forgotten)
                columns += squares.sum(dim=0)
        if columns is not None:
            state["column"].lerp_(columns.div_(len(gradient)), forgotten)


def _column_scales(state: Moments) -> Tensor | None:
    """What each column of a factored gradient is multiplied by."""
    return state["column"].rsqrt().mul_(state["row"].mean().sqrt()) if "column" in state else None


def _scale(gradient: Tensor, state: Moments, column_scales: Tensor | None, rows: slice) -> Tensor:
    """Some rows of the gradient over the root of their second moment."""
    block = gradient[rows].to(torch.float32, copy=True)
    if column_scales is None:
        return block.mul_(state["square"][rows].rsqrt())
    return block.mul_(state["row"][rows].rsqrt()[:, None]).mul_(column_scales)
