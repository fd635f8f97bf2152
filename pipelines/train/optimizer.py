"""What the loop asks of an optimizer, and which one a configuration means."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from torch import Tensor

from pipelines.train.adafactor import Adafactor
from pipelines.train.adamw import AdamW
from pipelines.train.by_parameter import ByParameter
from pipelines.train.low_bit import LowBitAdamW
from pipelines.train.model import OneTokenModel
from schemas.training import TrainConfig


@runtime_checkable
class Optimizer(Protocol):
    """Moves the trainable parameters of one model, step by step."""

    def rates_at(self, step: int) -> dict[str, float]:
        """The rate of each group at a step, by the group's name."""
        ...

    def begin_step(self, step: int) -> None:
        """Called before the first backward pass of a step; weights may move during those that follow."""
        ...

    def end_step(self) -> Tensor:
        """Called after the last one; moves what has not moved. Returns the norm of the gradients, now gone.

        A norm that is not finite means that the weights cannot be used any more.
        """
        ...

    def state_tensors(self) -> dict[str, Tensor]:
        """The state as `PARAMETER.KEY`, for a checkpoint."""
        ...

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `state_tensors` gave; raises `MismatchError` when it is of other parameters."""
        ...


def build_optimizer(model: OneTokenModel, config: TrainConfig, num_steps: int) -> Optimizer:
    """The optimizer that `optimizer.kind` names, over the parameters that train.

    Raises:
        ConfigError: its library is not installed.
    """
    settings = config.optimizer
    if settings.kind == "adamw":
        return AdamW(model, config, num_steps)
    if settings.kind == "adafactor":
        adafactor = Adafactor(seed=config.run.seed, weight_decay=settings.weight_decay)
        return ByParameter(model, config, num_steps, adafactor)
    low_bit = LowBitAdamW(
        kind=settings.kind, betas=settings.betas, weight_decay=settings.weight_decay, seed=config.run.seed
    )
    return ByParameter(model, config, num_steps, low_bit)
