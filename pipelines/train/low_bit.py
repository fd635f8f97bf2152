"""AdamW whose moments take 8 or 4 bits, from torchao (the extra `torchao`), for one parameter.

Moments are quantized in blocks with one scale each; weights in bfloat16 are rounded stochastically. The
library draws its noise from the global random state: it is seeded from (seed, step, parameter) and put back
afterwards. It compiles one kernel for each shape of parameter, which costs the first step a minute or more
and needs a C++ compiler. State takes 2.03 or 1.06 bytes a parameter.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import torch
from torch import Tensor

from pipelines.train.rounding import seed_of
from schemas.errors import ConfigError
from schemas.training import OptimizerKind

BLOCK_SIZES: Final[dict[OptimizerKind, int]] = {"adamw_8bit": 256, "adamw_4bit": 128}
"""Values that share a scale."""


@dataclass(frozen=True, slots=True)
class LowBitState:
    """One parameter's optimizer of the library, and its moments."""

    optimizer: torch.optim.Optimizer
    handle: Tensor
    """Shares the weight's memory; the library reads the gradient from it."""
    moments: dict[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class LowBitAdamW:
    """AdamW8bit or AdamW4bit."""

    kind: OptimizerKind
    betas: tuple[float, float]
    weight_decay: float
    seed: int

    def make_state(self, weight: Tensor) -> LowBitState:
        """The state before the first step.

        Raises:
            ConfigError: the library is not installed.
        """
        handle = weight.detach().requires_grad_()
        optimizer = find_low_bit_class(self.kind)(
            [handle],
            betas=self.betas,
            weight_decay=self.weight_decay,
            block_size=BLOCK_SIZES[self.kind],
            bf16_stochastic_round=weight.dtype is torch.bfloat16,
        )
        moments: dict[str, Tensor] = {
            "step": torch.tensor(0.0),
            "exp_avg": optimizer._new_buffer(handle, True),
            "exp_avg_sq": optimizer._new_buffer(handle, False),
        }
        optimizer.state[handle].update(moments)
        return LowBitState(optimizer, handle, moments)

    def open_state(self, state: LowBitState) -> Mapping[str, Tensor]:
        """Codes and scales of the moments; tables that follow from the kind are left out."""
        parts: dict[str, Tensor] = {}
        for key in ("exp_avg", "exp_avg_sq"):
            moment = cast(Any, state.moments[key])
            if hasattr(moment, "codes"):
                parts |= {f"{key}.codes": moment.codes, f"{key}.scale": moment.scale}
            else:
                parts[key] = moment
        return parts

    def move(
        self, name: str, weight: Tensor, gradient: Tensor, state: LowBitState, rate: float, num_steps: int
    ) -> None:
        """Take a step, in place; `weight` is what the state was made for."""
        devices = [weight.device.index or 0] if weight.is_cuda else []
        state.moments["step"].fill_(num_steps - 1)
        state.optimizer.param_groups[0]["lr"].fill_(rate)
        state.handle.grad = gradient
        with torch.random.fork_rng(devices=devices):  # pyright: ignore[reportUnknownMemberType]
            torch.manual_seed(seed_of(self.seed, num_steps, name))  # pyright: ignore[reportUnknownMemberType]
            cast(Any, state.optimizer).step()
        state.handle.grad = None


def find_low_bit_class(kind: OptimizerKind) -> Any:  # noqa: ANN401 - the library is not there in every environment
    """The library's optimizer of a kind.

    Raises:
        ConfigError: the library is not installed.
    """
    try:
        from torchao import optim  # pyright: ignore[reportMissingImports, reportUnknownVariableType]
    except ImportError as error:
        raise ConfigError(
            f"`optimizer.kind: {kind}` needs torchao; install onetoken[torchao], or write adamw or adafactor"
        ) from error
    library = cast(Any, optim)
    return library.AdamW8bit if kind == "adamw_8bit" else library.AdamW4bit
