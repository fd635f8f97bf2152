"""Optimizers that move one parameter at a time: after the backward pass, or during it.

During it, for one GPU, a gradient lives from its last sum to its weight's step. All gradients of a 7B model
take 14 GiB in bfloat16; so only those of the layers in work exist. A hook fires when a parameter's gradient
is whole, once a step however often the parameter was used: layers are recomputed in the form that keeps this
so (`pipelines.train.recompute`). Both ways move the weights alike, to the bit.

What moving during it gives up: accumulation over micro-batches (a step is one micro-batch, 16 to 32 examples
instead of the paper's 256) and clipping by the norm of all gradients (Adafactor clips each weight's update).
A gradient that is not finite is seen when the weights have moved already; such a step is never saved.
"""

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Generic, Protocol, TypeVar, cast, runtime_checkable

import torch
from torch import Tensor, nn

from pipelines.train.adamw import clip_gradients
from pipelines.train.model import OneTokenModel
from pipelines.train.schedule import GroupName, Rates
from schemas.errors import MismatchError, WorkError
from schemas.training import TrainConfig

State = TypeVar("State")


@runtime_checkable
class Rule(Protocol[State]):
    """How one parameter moves."""

    def make_state(self, weight: Tensor) -> State:
        """The state before the first step, on the parameter's device."""
        ...

    def open_state(self, state: State) -> Mapping[str, Tensor]:
        """The tensors of a state, by name; writing to them changes it."""
        ...

    def move(
        self, name: str, weight: Tensor, gradient: Tensor, state: State, rate: float, num_steps: int
    ) -> None:
        """Take a step in place, the `num_steps`-th of this parameter."""
        ...


class ByParameter(Generic[State]):
    """A rule over the trainable parameters of a model, with a rate per group."""

    def __init__(self, model: OneTokenModel, config: TrainConfig, num_steps: int, rule: Rule[State]) -> None:
        """Make the states; in the backward pass, hook the parameters, for the life of the model."""
        self._rates, self._rule = Rates(config, num_steps), rule
        self._in_backward = config.optimizer.in_backward
        self._max_grad_norm = config.optimizer.max_grad_norm or math.inf
        self._step: int | None = None
        self._norms: dict[str, Tensor] = {}
        self._groups = model.parameter_groups()
        self._states = {name: rule.make_state(weight.detach()) for name, weight, _ in self._weights()}
        self._counts = dict.fromkeys(self._states, 0)
        for name, weight, group in self._weights() if self._in_backward else ():
            cast(Any, weight).register_post_accumulate_grad_hook(partial(self._move_at_once, name, group))

    def rates_at(self, step: int) -> dict[str, float]:
        """The rate of each group at a step, by the group's name."""
        return {group.name: self._rates.at(group.name, step) for group in self._groups}

    def begin_step(self, step: int) -> None:
        """Let the next backward pass move the weights, at the rates of a step."""
        self._step = step
        self._norms.clear()

    def end_step(self) -> Tensor:
        """Say that the backward passes are over; returns the norm of all gradients."""
        if self._in_backward:
            self._step = None
            norms = [norm.cpu() for norm in self._norms.values()]
            return _norm_of(torch.stack(norms)) if norms else torch.zeros(())
        norm, is_usable = clip_gradients([weight for _, weight, _ in self._weights()], self._max_grad_norm)
        for name, weight, group in self._weights():
            if is_usable and weight.grad is not None:
                self._move(name, group, weight)
            weight.grad = None
        return norm

    def state_tensors(self) -> dict[str, Tensor]:
        """The state as `PARAMETER.KEY`."""
        return {
            f"{name}.{key}": value
            for name, state in self._states.items()
            for key, value in self._rule.open_state(state).items()
        } | {f"{name}.step": torch.tensor(count) for name, count in self._counts.items()}

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `state_tensors` gave.

        Raises:
            MismatchError: the state is of other parameters than those that train.
        """
        own = self.state_tensors()
        for name in sorted(own.keys() | tensors.keys()):
            there, here = (tuple(side[name].shape) if name in side else None for side in (tensors, own))
            if there != here:
                raise MismatchError(
                    f"the optimizer's state {name} is {there} there and {here} here; resume with the "
                    "configuration of the checkpoint"
                )
            own[name].copy_(tensors[name])
        self._counts = {name: int(own[f"{name}.step"]) for name in self._counts}

    def _weights(self) -> Iterator[tuple[str, nn.Parameter, GroupName]]:
        for group in self._groups:
            for name, weight in group.parameters:
                yield name, weight, group.name

    def _move_at_once(self, name: str, group: GroupName, weight: nn.Parameter) -> None:
        """Move a weight whose gradient is whole, and drop the gradient."""
        if weight.grad is None or self._step is None or name in self._norms:
            raise WorkError(
                f"{name} got a gradient outside of a step, or a second one; `optimizer.in_backward` takes "
                "one backward pass a step"
            )
        self._norms[name] = _norm_of(weight.grad)
        self._move(name, group, weight)
        weight.grad = None

    def _move(self, name: str, group: GroupName, weight: nn.Parameter) -> None:
        if weight.grad is None or self._step is None:
            raise WorkError(f"{name} has no gradient to move by")
        self._counts[name] += 1
        rate = self._rates.at(group, self._step)
        with torch.no_grad():
            state = self._states[name]
            self._rule.move(name, weight.detach(), weight.grad, state, rate, self._counts[name])


def _norm_of(values: Tensor) -> Tensor:
    """In float32, without a copy of the values."""
    return cast(Any, torch.linalg).vector_norm(values, dtype=torch.float32)
