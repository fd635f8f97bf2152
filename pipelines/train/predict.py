"""The most bytes that a training run holds at once, without its memory: one step of fake tensors is taken.

Everything that the real step allocates is allocated by its own code: the model's forward and backward pass
with what is recomputed, the optimizer's state, gradients, and the optimizer's work where it moves weights
during the backward pass. AdamW's kernels work in place. What the batch looks like is the largest one that the
configuration lets through, or a usual one if that is asked for.

Not predicted: CUDA's context, its libraries' workspaces and gaps between blocks; 1 to 1.5 GiB on a card.
Costs: about a minute of one core for a model of 8 billion parameters.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PretrainedConfig

from operators.batch import IGNORED_LABEL, MEDIUM_TOKEN, ModelBatch
from operators.views import VIEWS_PER_PICTURE
from pipelines.train.adafactor import Moments
from pipelines.train.by_parameter import ByParameter
from pipelines.train.fake_model import build_fake_model
from pipelines.train.live_bytes import LiveBytes, bytes_of
from pipelines.train.low_bit import BLOCK_SIZES
from pipelines.train.model import OneTokenModel
from pipelines.train.optimizer import Optimizer, build_optimizer
from pipelines.train.precision import computing, dtype_of
from schemas.training import OptimizerKind, TrainConfig

CPU: Final = torch.device("cpu")
ANSWER_SHARE: Final = 0.5
"""Of the text tokens of the largest batch; logits of the others never exist."""
NF4_BITS: Final = 4.5
"""Of a weight: a code, and its part of a float32 scale for each 64."""
SMALLEST_QUANTIZED: Final = 4096
"""Elements of a parameter below which torchao keeps its moments as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepShape:
    """A micro-batch, as far as memory goes."""

    num_examples: int
    num_tokens: int
    """Text tokens of each example."""
    num_labels: int
    """Those that are learned."""
    num_frames: int = 1
    """Of each example; 0: text only."""
    views_per_frame: int = 1
    num_patches: int = 576
    encoder_width: int = 1024
    is_reduced: bool = False
    """Frames hold what a reducer left of all views, in one row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Bytes at the peak of a step, and what of them is always there."""

    weights: int
    optimizer: int
    peak: int

    @property
    def passing(self) -> int:
        """Gradients, activations and what is worked out on the way."""
        return self.peak - self.weights - self.optimizer


def largest_step(config: TrainConfig, num_tokens: int | None = None) -> StepShape:
    """The largest micro-batch that a configuration lets through, or one of usual texts.

    Where a budget of tokens fills a unit, shorter texts bring more pictures with them than the longest do:
    then the usual length is worth naming.
    """
    data = config.data
    tokens = num_tokens or data.max_tokens
    num_examples = data.micro_batch if data.unit == "count" else -(-data.unit_tokens // tokens)
    if data.unit != "count":
        tokens = min(tokens, data.unit_tokens // num_examples)
    frames = data.frames.uniform or data.frames.max or 1
    return StepShape(
        num_examples=num_examples,
        num_tokens=tokens,
        num_labels=max(1, int(tokens * ANSWER_SHARE)),
        num_frames=frames if config.stage == 2 and data.views == "whole" else 1,
        views_per_frame=VIEWS_PER_PICTURE["hd4"] if data.views == "all" else 1,
        is_reduced=config.model.reducer.needs_focus,
    )


def predict(llm_config: PretrainedConfig, config: TrainConfig, step: StepShape) -> Footprint:
    """The footprint of training on micro-batches of a shape.

    Raises:
        ConfigError: the model cannot be built.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    model = build_fake_model(mode, llm_config, config, step.encoder_width)
    live = LiveBytes()
    weights = live.count([*model.parameters(), *model.buffers()])
    batch = make_batch(step, mode)
    layout = model.lay_out(batch, batch.frames, packed=model.plan.packed)
    live.count([] if batch.frames is None else [batch.frames])
    with mode, live:
        optimizer, state = _make_optimizer(model, config)
        optimizer.begin_step(0)
        # With several micro-batches, the second finds the gradients of the first.
        for _ in range(1 if config.data.units_per_step == 1 else 2):
            with computing(CPU, dtype_of(config.run)):
                share = model(batch, layout).total / step.num_labels
            share.backward()
    saved, opened = _count_quantized(model, config)
    return Footprint(weights=weights - saved, optimizer=bytes_of(state), peak=live.peak - saved + opened)


def _count_quantized(model: OneTokenModel, config: TrainConfig) -> tuple[int, int]:
    """What the base of adapters saves in 4 bits, and what the one projection takes that is open at a time."""
    if config.model.lora is None or config.model.lora.base == "plain":
        return 0, 0
    weights = [weight for name, weight in model.llm.named_parameters() if ".base_layer.weight" in name]
    saved = sum(weight.nbytes - weight.numel() * NF4_BITS // 8 for weight in weights)
    return round(saved), max(weight.nbytes for weight in weights)


def make_batch(step: StepShape, mode: FakeTensorMode | None = None) -> ModelBatch:
    """A batch of a shape; texts and frames are zeros, the frames fake where a mode is given."""
    num_media = min(step.num_frames, 1)
    token_ids = torch.zeros(step.num_examples, step.num_tokens + num_media, dtype=torch.int64)
    labels = torch.full_like(token_ids, IGNORED_LABEL)
    labels[:, token_ids.shape[1] - step.num_labels :] = 0
    fuse_mask = labels == IGNORED_LABEL
    if num_media:
        token_ids[:, 0] = MEDIUM_TOKEN
        fuse_mask[:, 0] = False
    with mode or contextlib.nullcontext():
        frames = torch.zeros(_frames_shape(step), dtype=torch.float16) if num_media else None
    return ModelBatch(
        token_ids=token_ids,
        labels=labels,
        attention_mask=torch.ones_like(fuse_mask),
        fuse_mask=fuse_mask,
        frames=frames,
        frames_per_medium=(step.num_frames,) * (step.num_examples * num_media),
        media_per_example=(num_media,) * step.num_examples,
        example_ids=tuple(f"example {index}" for index in range(step.num_examples)),
        frame_tokens=_frame_tokens(step) if num_media and step.is_reduced else None,
    )


def _frames_shape(step: StepShape) -> tuple[int, int, int, int]:
    num_frames = step.num_examples * step.num_frames
    if step.is_reduced:
        return num_frames, 1, step.views_per_frame * step.num_patches, step.encoder_width
    return num_frames, step.views_per_frame, step.num_patches, step.encoder_width


def _frame_tokens(step: StepShape) -> tuple[int, ...]:
    num_frames, _, num_tokens, _ = _frames_shape(step)
    return (num_tokens,) * num_frames


def _make_optimizer(model: OneTokenModel, config: TrainConfig) -> tuple[Optimizer, list[Tensor]]:
    """The optimizer and its state, as they are after the first step."""
    kind = config.optimizer.kind
    if kind == "adamw":
        weights = [weight for group in model.parameter_groups() for _, weight in group.parameters]
        moments = [torch.zeros_like(weight) for weight in weights for _ in range(2)]
        return build_optimizer(model, config, 1), moments
    if kind == "adafactor":
        optimizer = build_optimizer(model, config, 1)
    else:
        optimizer = ByParameter(model, config, 1, LowBitBytes(kind))
    return optimizer, list(optimizer.state_tensors().values())


@dataclass(frozen=True, slots=True)
class LowBitBytes:
    """The state of `LowBitAdamW` without its library, and nothing of its work, which takes no memory."""

    kind: OptimizerKind

    def make_state(self, weight: Tensor) -> Moments:
        """Codes and scales of two moments."""
        block = BLOCK_SIZES[self.kind]
        if weight.numel() < SMALLEST_QUANTIZED or weight.numel() % block:
            return {key: torch.zeros_like(weight) for key in ("exp_avg", "exp_avg_sq")}
        num_codes = weight.numel() // (2 if self.kind == "adamw_4bit" else 1)
        return {
            f"{key}.{part}": torch.zeros(length, dtype=dtype)
            for key in ("exp_avg", "exp_avg_sq")
            for part, length, dtype in (
                ("codes", num_codes, torch.uint8),
                ("scale", weight.numel() // block, torch.float32),
            )
        }

    def open_state(self, state: Moments) -> Mapping[str, Tensor]:
        """The tensors of a state, by name."""
        return state

    def move(
        self,
        name: str,
        weight: Tensor,
        gradient: Tensor,
        state: dict[str, Tensor],
        rate: float,
        num_steps: int,
    ) -> None:
        """Nothing."""
