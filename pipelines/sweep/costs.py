"""What a run's model costs, without its weights: operations of reading a frame, bytes of the largest step.

Operations are counted where they are called, on tensors that hold nothing, by torch's own counter, so a new
reducer needs no formula here; on models built like Llama the count equals that of `operators.costs` (tested).
Attention is counted as whole rows of products. The encoder is not there: its output comes from the cache.
"""

from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import (
    FlopCounterMode,
    sdpa_backward_flop_count,  # pyright: ignore[reportUnknownVariableType]
    sdpa_flop_count,  # pyright: ignore[reportUnknownVariableType]
)
from transformers import PretrainedConfig

from operators.costs.published import TEXT_TOKENS
from operators.frame_by_frame import all_together
from pipelines.train.fake_model import build_fake_model
from pipelines.train.known_llms import find_llm_config
from pipelines.train.largest import ExampleBounds, list_largest_steps, shape_features
from pipelines.train.precision import computing, dtype_of
from pipelines.train.predict import CPU, predict_largest
from pipelines.train.step_shape import StepShape, make_batch
from schemas.feature import FeatureSpec
from schemas.training import TrainConfig


@dataclass(frozen=True, slots=True)
class ModelCosts:
    """Of one run."""

    flops: float
    """Of reading one frame and the text of the published tables."""
    peak_bytes: int
    """Of the largest step that the configuration lets through."""


def estimate_costs(config: TrainConfig, spec: FeatureSpec, bounds: ExampleBounds) -> ModelCosts:
    """The costs of a configuration on features of a spec, with examples within bounds.

    Raises:
        ConfigError: the model cannot be built.
    """
    llm = find_llm_config(config.model.llm)
    context: int | None = getattr(llm, "max_position_embeddings", None)
    features = shape_features(config, spec)
    step, footprint = predict_largest(llm, config, list_largest_steps(config, bounds, features, context))
    one = replace(
        step,
        num_examples=1,
        num_tokens=TEXT_TOKENS + 1,
        num_labels=1,
        num_fused=None,
        num_frames=1,
        views_per_frame=features.views,
    )
    return ModelCosts(count_flops(llm, config, one), footprint.peak)


def count_flops(llm: PretrainedConfig, config: TrainConfig, step: StepShape) -> float:
    """Operations of the forward pass of a batch, logits of its labels alone.

    Raises:
        ConfigError: the model cannot be built.
    """
    return _count(llm, config, step, backward=False)


def count_step_flops(llm: PretrainedConfig, config: TrainConfig, step: StepShape) -> float:
    """Operations of the forward and backward pass of a batch, with what is recomputed between them.

    Frames pass as one chunk, which takes as many operations as several do.

    Raises:
        ConfigError: the model cannot be built.
    """
    memory = config.memory
    if memory.frames_per_chunk is not None:
        memory = memory.model_copy(update={"frames_per_chunk": max(1, step.total_frames)})
    return _count(llm, config.model_copy(update={"memory": memory}), step, backward=True)


def _count(llm: PretrainedConfig, config: TrainConfig, step: StepShape, *, backward: bool) -> float:
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    model = build_fake_model(mode, llm, config, step.encoder_width)
    batch = make_batch(step, mode)
    layout = model.lay_out(batch, batch.frames, packed=backward and model.plan.packed)
    kernels = cast(Any, torch.ops.aten)
    mapping = {
        kernels._scaled_dot_product_flash_attention_for_cpu: _count_attention,
        kernels._scaled_dot_product_flash_attention_for_cpu_backward: _count_attention_backward,
    }
    counter = FlopCounterMode(display=False, custom_mapping=mapping)
    with mode, counter, all_together(), computing(CPU, dtype_of(config.run)):
        total = model(batch, layout).total
        if backward:
            total.backward()
    return float(counter.get_total_flops())


def _count_attention(query: torch.Size, key: torch.Size, value: torch.Size, *_: object, **__: object) -> int:
    """The CPU's kernel, which the counter does not know, counted as it counts the others."""
    return sdpa_flop_count(query, key, value)


def _count_attention_backward(
    gradient: torch.Size, query: torch.Size, key: torch.Size, value: torch.Size, *_: object, **__: object
) -> int:
    return sdpa_backward_flop_count(gradient, query, key, value)
