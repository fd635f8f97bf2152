"""Learning rates as a function of the step alone.

Nothing of a schedule is saved, so a resumed run cannot drift from it.
"""

import math
from dataclasses import dataclass
from typing import Literal

from schemas.training import OptimizerConfig, TrainConfig

GroupName = Literal["projector", "rest"]


def rate_factor(step: int, num_steps: int, config: OptimizerConfig) -> float:
    """The share of the highest rate that step `step` (from 0) uses.

    Warm-up rises in equal parts and reaches 1 at its last step; unlike the usual one it does not waste a
    first step at rate 0. The cosine goes from 1 towards 0, which it would reach at `num_steps`.
    """
    num_warmup = math.ceil(config.warmup_share * num_steps)
    if step < num_warmup:
        return (step + 1) / num_warmup
    if config.schedule == "constant":
        return 1.0
    progress = (step - num_warmup) / max(1, num_steps - num_warmup)
    return 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True, slots=True)
class Rates:
    """The learning rate of each parameter group at each step of a run."""

    config: TrainConfig
    num_steps: int

    def at(self, group: GroupName, step: int) -> float:
        """The rate of a group at step `step` (from 0)."""
        highest = self.config.projector_lr if group == "projector" else self.config.lr
        return highest * rate_factor(step, self.num_steps, self.config.optimizer)
