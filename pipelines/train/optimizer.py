"""AdamW with a rate per group, and a schedule that is a function of the step alone.

The rate is set before each step from the step's number, so nothing of a scheduler is saved and a resumed
run cannot drift from it. State is addressed by parameter name, which is what a checkpoint needs.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from pipelines.train.model import OneTokenModel
from schemas.errors import MismatchError
from schemas.training import OptimizerConfig, TrainConfig


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


class Optimizer:
    """AdamW over the trainable parameters of a model."""

    def __init__(self, model: OneTokenModel, config: TrainConfig, num_steps: int) -> None:
        self._config = config.optimizer
        self._num_steps = num_steps
        self._rates = {"projector": config.projector_lr, "rest": config.lr}
        self._groups = model.parameter_groups()
        self._adamw = torch.optim.AdamW(
            [{"params": [weight for _, weight in group.parameters]} for group in self._groups],
            betas=config.optimizer.betas,
            weight_decay=config.optimizer.weight_decay,
        )

    def rates_at(self, step: int) -> dict[str, float]:
        """The rate of each group at a step, by the group's name."""
        factor = rate_factor(step, self._num_steps, self._config)
        return {group.name: self._rates[group.name] * factor for group in self._groups}

    def clip_gradients(self) -> float:
        """Scale the gradients down to the configured norm; returns their norm before."""
        weights = [weight for _, weight in self._named_parameters()]
        return float(nn.utils.clip_grad_norm_(weights, self._config.max_grad_norm or math.inf))

    def take_step(self, step: int) -> None:
        """Move the parameters at the rates of a step, and drop the gradients."""
        rates = self.rates_at(step)
        for settings, group in zip(self._adamw.param_groups, self._groups, strict=True):
            settings["lr"] = rates[group.name]
        cast(Any, self._adamw).step()
        self._adamw.zero_grad(set_to_none=True)

    def state_tensors(self) -> dict[str, Tensor]:
        """The optimizer's state as `PARAMETER.KEY`; parameters that never had a gradient have none."""
        return {
            f"{name}.{key}": value
            for name, weight in self._named_parameters()
            for key, value in cast(dict[str, Tensor], self._adamw.state.get(weight, {})).items()
        }

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `state_tensors` gave.

        Raises:
            MismatchError: the state is of other parameters than those that train.
        """
        weights = dict(self._named_parameters())
        for full_name, value in tensors.items():
            name, _, key = full_name.rpartition(".")
            weight = weights.get(name)
            if weight is None or value.shape not in (weight.shape, torch.Size([])):
                raise MismatchError(
                    f"the optimizer's state holds {full_name} {tuple(value.shape)}, which does not train "
                    "here; resume with the configuration of the checkpoint"
                )
            device = weight.device if value.shape == weight.shape else value.device
            self._adamw.state[weight][key] = value.to(device)

    def _named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        for group in self._groups:
            yield from group.parameters
