"""A model of any size that takes no memory: every tensor has its shape and bytes, and none has values."""

from typing import Any, cast

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from pipelines.train.lora import add_lora
from pipelines.train.model import OneTokenModel, build_model
from pipelines.train.precision import dtype_of, trained_dtype_of
from pipelines.train.shape import plan_of, shape_of
from schemas.training import TrainConfig


def build_fake_model(
    mode: FakeTensorMode, llm_config: PretrainedConfig, config: TrainConfig, encoder_width: int
) -> OneTokenModel:
    """The model that a configuration trains, its weights in their dtypes, as fakes of a CPU's."""
    with torch.device("meta"):
        llm = cast(PreTrainedModel, cast(Any, AutoModelForCausalLM).from_config(llm_config))
        shape = shape_of(config, encoder_width)
        model = build_model(llm, shape, config.stage, seed=config.run.seed, plan=plan_of(config))
        if config.model.lora is not None:
            add_lora(model, config.model.lora.model_copy(update={"base": "plain"}), config.run.seed)
    fakes: dict[int, nn.Parameter] = {}
    with mode:
        for module in model.modules():
            for name, weight in module.named_parameters(recurse=False):
                dtype = trained_dtype_of(config) if weight.requires_grad else dtype_of(config.run)
                if id(weight) not in fakes:
                    empty = torch.empty(weight.shape, dtype=dtype)
                    fakes[id(weight)] = nn.Parameter(empty, requires_grad=weight.requires_grad)
                module.register_parameter(name, fakes[id(weight)])
            for name, buffer in cast(Any, module).named_buffers(recurse=False):
                cast(Any, module)._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
    return model.train()
