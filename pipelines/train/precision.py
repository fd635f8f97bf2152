"""Where and in what numbers a run computes.

bfloat16 is used through autocast. Weights that train are kept in float32, or in bfloat16 by an optimizer that
rounds stochastically: rounded to the nearest, a weight would lose nine of ten updates at a rate of 1e-5.
Frozen weights cost half.
"""

from collections.abc import Callable
from typing import Final

import torch
from torch import nn

from schemas.errors import ConfigError
from schemas.training import RunConfig, TrainConfig

FIRST_WITH_BFLOAT16: Final = (8, 0)
"""Compute capability; older GPUs compute in it at a fraction of their speed, if at all."""


def choose_device(run: RunConfig) -> torch.device:
    """The device that a configuration asks for.

    Raises:
        ConfigError: CUDA is asked for and not there.
    """
    has_cuda = torch.cuda.is_available()
    if run.device == "cuda" and not has_cuda:
        raise ConfigError("`run.device: cuda`, but torch sees no CUDA device; write cpu or auto")
    return torch.device("cuda" if has_cuda and run.device != "cpu" else "cpu")


def take_device(run: RunConfig, name: str) -> RunConfig:
    """The same run on the device that torch calls `name`: of several GPUs the numbered one is this process's.

    Raises:
        ConfigError: it is neither the CPU nor a CUDA device.
    """
    kind, _, number = name.partition(":")
    if kind not in {"cpu", "cuda"} or (number and not number.isdecimal()):
        raise ConfigError(f"no device {name!r} is known here; write cpu, cuda or cuda:1")
    if kind == "cuda" and number:
        torch.cuda.set_device(int(number))
    return run.model_copy(update={"device": kind})


def check_precision(
    config: TrainConfig, capability: Callable[[], tuple[int, int]] = torch.cuda.get_device_capability
) -> None:
    """Refuse bfloat16 where this process's GPU has none.

    Args:
        config: of the run.
        capability: of the GPU; is asked where there is one.

    Raises:
        ConfigError: saying what to write instead.
    """
    if config.run.dtype != "bfloat16" or choose_device(config.run).type != "cuda":
        return
    found = capability()
    if found >= FIRST_WITH_BFLOAT16:
        return
    instead = "`run.dtype: float32`"
    if config.optimizer.weights == "bfloat16":
        instead += " without `optimizer.weights`, and `model.lora: {}` if all weights are too many"
    (major, minor), (first, _) = found, FIRST_WITH_BFLOAT16
    raise ConfigError(
        f"`run.dtype: bfloat16` needs a GPU of compute capability {first}.0 or higher (Ampere), and this one "
        f"has {major}.{minor}; write {instead}, or use another GPU"
    )


def dtype_of(run: RunConfig) -> torch.dtype:
    """What layers compute in."""
    return torch.bfloat16 if run.dtype == "bfloat16" else torch.float32


def computing(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """A context in which layers compute in `dtype`, whatever their weights are kept in.

    Casts are not kept: a copy of all weights would stand beside them until the backward pass.
    """
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not torch.float32, cache_enabled=False)


def trained_dtype_of(config: TrainConfig) -> torch.dtype:
    """What the weights that train are kept in."""
    return torch.bfloat16 if config.optimizer.weights == "bfloat16" else torch.float32


def cast_weights(model: nn.Module, dtype: torch.dtype, trained: torch.dtype = torch.float32) -> None:
    """Frozen weights to `dtype`, trainable ones to `trained`; ties between weights stay, and so do bits."""
    for weight in model.parameters():
        if weight.is_floating_point():
            weight.data = weight.data.to(trained if weight.requires_grad else dtype)
