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
    sdpa_flop_count,  # pyright: ignore[reportUnknownVariableType]
)
from transformers import PretrainedConfig

from operators.costs.published import TEXT_TOKENS
from pipelines.train.fake_model import build_fake_model
from pipelines.train.known_llms import find_llm_config
from pipelines.train.precision import computing, dtype_of
from pipelines.train.predict import CPU, StepShape, largest_step, make_batch, predict
from pipelines.train.shape import count_patches, count_views
from schemas.feature import FeatureSpec
from schemas.training import TrainConfig


@dataclass(frozen=True, slots=True)
class ModelCosts:
    """Of one run."""

    flops: float
    """Of reading one frame and the text of the published tables."""
    peak_bytes: int
    """Of the largest step that the configuration lets through."""


def estimate_costs(config: TrainConfig, spec: FeatureSpec) -> ModelCosts:
    """The costs of a configuration on features of a spec.

    Raises:
        ConfigError: the model cannot be built.
    """
    llm = find_llm_config(config.model.llm)
    step = shape_step(config, spec)
    peak = predict(llm, config, step).peak
    one = replace(step, num_examples=1, num_tokens=TEXT_TOKENS + 1, num_labels=1, num_frames=1)
    return ModelCosts(count_flops(llm, config, one), peak)


def shape_step(config: TrainConfig, spec: FeatureSpec, num_tokens: int | None = None) -> StepShape:
    """The largest micro-batch of a configuration, or one of usual texts, on features of a spec."""
    return replace(
        largest_step(config, num_tokens),
        num_patches=count_patches(config, spec),
        encoder_width=spec.encoder.width,
        views_per_frame=count_views(config, spec),
    )


def count_flops(llm: PretrainedConfig, config: TrainConfig, step: StepShape) -> float:
    """Operations of the forward pass of a batch, logits of its labels alone.

    Raises:
        ConfigError: the model cannot be built.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    model = build_fake_model(mode, llm, config, step.encoder_width)
    batch = make_batch(step, mode)
    layout = model.lay_out(batch, batch.frames)
    kernel = cast(Any, torch.ops.aten)._scaled_dot_product_flash_attention_for_cpu
    counter = FlopCounterMode(display=False, custom_mapping={kernel: _count_attention})
    with mode, counter, computing(CPU, dtype_of(config.run)):
        model(batch, layout)
    return float(counter.get_total_flops())


def _count_attention(query: torch.Size, key: torch.Size, value: torch.Size, *_: object, **__: object) -> int:
    """The CPU's kernel, which the counter does not know, counted as it counts the others."""
    return sdpa_flop_count(query, key, value)
