"""Activation checkpointing in the one form that is safe here.

Reentrant checkpointing fires a parameter's gradient hook once per use; an optimizer that steps inside the
backward pass would then step on partial gradients. The other form builds one graph, so the hook fires once.
"""

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import torch.utils.checkpoint as torch_checkpoint
from transformers import PreTrainedModel

Inputs = ParamSpec("Inputs")
Result = TypeVar("Result")


def recompute(function: Callable[Inputs, Result], *inputs: Inputs.args, **named: Inputs.kwargs) -> Result:
    """Call `function`, keeping its inputs only, and call it again when gradients need its inner values."""
    result = torch_checkpoint.checkpoint(  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        function, *inputs, use_reentrant=False, **named
    )
    return cast("Result", result)


def recompute_layers(decoder: PreTrainedModel) -> None:
    """Let a library decoder recompute each of its layers in training; older versions name it otherwise."""
    name = "activation_checkpointing_enable"
    enable = getattr(decoder, name if hasattr(decoder, name) else "gradient_checkpointing_enable")
    enable({"use_reentrant": False})
