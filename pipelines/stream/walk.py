"""Who takes what of the order: ranks share the units of a step, workers take steps in turn.

    step  =  units, the costly ones first        rank r of w takes  units[r::w]
    steps from a position on                     worker i of n takes the i-th, the (i + n)-th, ...

A rank that lacks a unit where others have one takes part with an empty one, so that all ranks make as many
rounds. Nothing of this enters the order: a position is where any number of ranks and workers goes on.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from pipelines.stream.order import EpochPlan, Order
from pipelines.stream.units import Unit
from schemas.errors import ConfigError

Dealt = TypeVar("Dealt")


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """The next step that is due."""

    epoch: int = 0
    step: int = 0

    @property
    def after(self) -> "Position":
        """The position when this step was handed out."""
        return Position(self.epoch, self.step + 1)


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """A step, and the units of it."""

    position: Position
    units: list[Unit]


class Walk:
    """The steps of a run, epoch after epoch."""

    def __init__(self, order: Order, num_epochs: int | None) -> None:
        self._order = order
        self._num_epochs = num_epochs
        self._latest: tuple[int, EpochPlan] | None = None

    def plan(self, epoch: int) -> EpochPlan:
        """The plan of an epoch; the latest one is kept."""
        if self._latest is None or self._latest[0] != epoch:
            self._latest = epoch, self._order.plan(epoch)
        return self._latest[1]

    def positions(self, start: Position) -> Iterator[Position]:
        """All that are due from one on."""
        epoch, step = start.epoch, start.step
        while self._num_epochs is None or epoch < self._num_epochs:
            for index in range(step, self.plan(epoch).num_steps):
                yield Position(epoch, index)
            epoch, step = epoch + 1, 0

    def find(self, number: int) -> PlannedStep:
        """The step of this number of the run, from 0.

        Raises:
            ConfigError: when the run ends before.
        """
        epoch, step = 0, number
        while step >= self.plan(epoch).num_steps:
            step -= self.plan(epoch).num_steps
            epoch += 1
            if self._num_epochs is not None and epoch >= self._num_epochs:
                raise ConfigError(f"the run ends {step + 1} steps before; name one of its {number - step}")
        return PlannedStep(Position(epoch, step), self.plan(epoch).step_units(step))

    def steps(self, start: Position, worker: int = 0, num_workers: int = 1) -> Iterator[PlannedStep]:
        """The steps that one of several workers serves, from a position on."""
        for position in islice(self.positions(start), worker, None, num_workers):
            yield PlannedStep(position, self.plan(position.epoch).step_units(position.step))


def deal(units: Sequence[Dealt], rank: int, world_size: int) -> list[Dealt | None]:
    """What a rank takes of a step: as many units as every other rank, some of which may be none."""
    mine: list[Dealt | None] = [*units[rank::world_size]]
    num_rounds = -(-len(units) // world_size)
    return mine + [None] * (num_rounds - len(mine))
