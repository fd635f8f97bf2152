"""AdamW over kept gradients, in float32: the paper's optimizer.

State is addressed by parameter name, which is what a checkpoint needs. The fused kernel runs everywhere: it
makes no temporary copies, where the default on a GPU copies all second moments at once.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from pipelines.train.model import OneTokenModel
from pipelines.train.schedule import Rates
from pipelines.train.sharding import cut_like, whole
from schemas.errors import MismatchError
from schemas.training import TrainConfig


class AdamW:
    """AdamW over the trainable parameters of a model, with a rate per group."""

    def __init__(self, model: OneTokenModel, config: TrainConfig, num_steps: int) -> None:
        self._rates = Rates(config, num_steps)
        self._max_grad_norm = config.optimizer.max_grad_norm or math.inf
        self._step = 0
        self._groups = model.parameter_groups()
        self._adamw = torch.optim.AdamW(
            [{"params": [weight for _, weight in group.parameters]} for group in self._groups],
            betas=config.optimizer.betas,
            weight_decay=config.optimizer.weight_decay,
            fused=True,
        )

    def rates_at(self, step: int) -> dict[str, float]:
        """The rate of each group at a step, by the group's name."""
        return {group.name: self._rates.at(group.name, step) for group in self._groups}

    def begin_step(self, step: int) -> None:
        """Gradients that come from now on are those of a step."""
        self._step = step

    def end_step(self) -> Tensor:
        """Clip the gradients, move the parameters and drop the gradients; returns their norm before.

        Where it is not finite, nothing moves.
        """
        norm, is_usable = clip_gradients([weight for _, weight in self._weights()], self._max_grad_norm)
        if is_usable:
            for settings, group in zip(self._adamw.param_groups, self._groups, strict=True):
                settings["lr"] = self._rates.at(group.name, self._step)
            cast(Any, self._adamw).step()
        self._adamw.zero_grad(set_to_none=True)
        return norm

    def state_tensors(self) -> dict[str, Tensor]:
        """The optimizer's state as `PARAMETER.KEY`; parameters that never had a gradient have none."""
        return {
            f"{name}.{key}": value
            for name, weight in self._weights()
            for key, value in cast(dict[str, Tensor], self._adamw.state.get(weight, {})).items()
        }

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `state_tensors` gave.

        Raises:
            MismatchError: the state is of other parameters than those that train.
        """
        weights = dict(self._weights())
        for full_name, value in tensors.items():
            name, _, key = full_name.rpartition(".")
            weight = weights.get(name)
            if weight is None or value.shape not in (weight.shape, torch.Size([])):
                raise MismatchError(
                    f"the optimizer's state holds {full_name} {tuple(value.shape)}, which does not train "
                    "here; resume with the configuration of the checkpoint"
                )
            cut = value.to(weight.device) if value.ndim < weight.ndim else cut_like(value, weight)
            self._adamw.state[weight][key] = cut

    def _weights(self) -> Iterator[tuple[str, nn.Parameter]]:
        for group in self._groups:
            yield from group.parameters


def clip_gradients(weights: Sequence[nn.Parameter], max_norm: float) -> tuple[Tensor, bool]:
    """Scale the gradients down to a norm; returns the norm before, and whether it is finite."""
    norm = whole(nn.utils.clip_grad_norm_(weights, max_norm))
    return norm, math.isfinite(float(norm))
