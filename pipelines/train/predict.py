"""The most bytes that a training run holds at once, without its memory: one step of fake tensors is taken.

Everything that the real step allocates is allocated by its own code: the model's forward and backward pass
with what is recomputed, the optimizer's state, gradients, and the optimizer's work where it moves weights
during the backward pass. AdamW's kernels work in place. Several workers divide the model by the code that
they really run, in a group of processes that is pretended: what each gathers and keeps is counted, too.

Where frames pass in many chunks, two steps with fewer are taken, and what each frame adds is added for the
others: memory grows with their number alone, and thousands of chunks would take minutes.

Not predicted: CUDA's context, its libraries' workspaces and gaps between blocks, 1 to 1.5 GiB on a card; of
several workers, the layers that are gathered ahead of their use, and buffers of the exchange.
Costs: about a minute of one core for a model of 8 billion parameters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PretrainedConfig

from operators.frame_by_frame import all_together
from pipelines.train.adafactor import Moments
from pipelines.train.by_parameter import ByParameter
from pipelines.train.fake_model import build_fake_model
from pipelines.train.live_bytes import LiveBytes, bytes_of
from pipelines.train.low_bit import BLOCK_SIZES
from pipelines.train.model import OneTokenModel
from pipelines.train.optimizer import Optimizer, build_optimizer
from pipelines.train.precision import computing, dtype_of
from pipelines.train.pretended import pretend_processes
from pipelines.train.sharding import own_share, shard_model
from pipelines.train.step_shape import StepShape, make_batch
from schemas.training import OptimizerKind, TrainConfig

CPU: Final = torch.device("cpu")
MOST_CHUNKS: Final = 8
"""Of frames, that are taken one after the other; what more would hold is told from fewer frames."""
NF4_BITS: Final = 4.5
"""Of a weight: a code, and its part of a float32 scale for each 64."""
SMALLEST_QUANTIZED: Final = 4096
"""Elements of a parameter below which torchao keeps its moments as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Bytes at the peak of a step, and what of them is always there."""

    weights: int
    optimizer: int
    peak: int
    whole: int
    """Weights before they are divided: what each worker holds on its machine's CPU while it begins."""

    @property
    def passing(self) -> int:
        """Gradients, activations and what is worked out on the way."""
        return self.peak - self.weights - self.optimizer


def predict_largest(
    llm_config: PretrainedConfig, config: TrainConfig, steps: Sequence[StepShape], num_workers: int = 1
) -> tuple[StepShape, Footprint]:
    """The shape with the highest peak, and its footprint.

    Raises:
        ConfigError: see `predict`.
    """
    found = [(step, predict(llm_config, config, step, num_workers)) for step in steps]
    return max(found, key=lambda one: one[1].peak)


def predict(
    llm_config: PretrainedConfig, config: TrainConfig, step: StepShape, num_workers: int = 1
) -> Footprint:
    """The footprint of training on micro-batches of a shape: of one of so many workers.

    Raises:
        ConfigError: the model cannot be built, or not be divided among the workers.
    """
    fewer = _choose_fewer_frames(config, step)
    if fewer is None:
        return _take_step(llm_config, config, step, num_workers)
    less, more = (
        _take_step(llm_config, config, replace(step, num_frames=count), num_workers) for count in fewer
    )
    per_frame = (more.peak - less.peak) / (fewer[1] - fewer[0])
    return replace(more, peak=more.peak + round(per_frame * (step.num_frames - fewer[1])))


def _choose_fewer_frames(config: TrainConfig, step: StepShape) -> tuple[int, int] | None:
    """Frames of an example from which those of many chunks are told; None: all are taken."""
    per_chunk = config.memory.frames_per_chunk
    if config.stage == 1 or per_chunk is None or step.total_frames <= MOST_CHUNKS * per_chunk:
        return None
    most = max(2, MOST_CHUNKS * per_chunk // step.num_examples)
    return (most // 2, most) if most < step.num_frames else None


def _take_step(
    llm_config: PretrainedConfig, config: TrainConfig, step: StepShape, num_workers: int
) -> Footprint:
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    model = build_fake_model(mode, llm_config, config, step.encoder_width)
    whole = bytes_of([*model.parameters(), *model.buffers()])
    with pretend_processes(num_workers) as processes:
        if num_workers > 1:
            shard_model(model, config, processes, CPU)
        live = LiveBytes()
        weights = live.count([*map(own_share, model.parameters()), *model.buffers()])
        batch = make_batch(step, mode)
        layout = model.lay_out(batch, batch.frames, packed=model.plan.packed)
        live.count([] if batch.frames is None else [batch.frames])
        with mode, live, all_together():
            optimizer, state = _make_optimizer(model, config)
            optimizer.begin_step(0)
            # With several micro-batches, the second finds the gradients of the first.
            for _ in range(1 if config.data.units_per_step <= num_workers else 2):
                with computing(CPU, dtype_of(config.run)):
                    share = model(batch, layout).total / step.num_labels
                share.backward()
    saved, opened = _count_quantized(model, config)
    return Footprint(
        weights=weights - saved,
        optimizer=bytes_of(state),
        peak=live.peak - saved + opened,
        whole=whole - saved,
    )


def _count_quantized(model: OneTokenModel, config: TrainConfig) -> tuple[int, int]:
    """What the base of adapters saves in 4 bits, and what the one projection takes that is open at a time."""
    if config.model.lora is None or config.model.lora.base == "plain":
        return 0, 0
    weights = [weight for name, weight in model.llm.named_parameters() if ".base_layer.weight" in name]
    saved = sum(weight.nbytes - weight.numel() * NF4_BITS // 8 for weight in weights)
    return round(saved), max(weight.nbytes for weight in weights)


def _make_optimizer(model: OneTokenModel, config: TrainConfig) -> tuple[Optimizer, list[Tensor]]:
    """The optimizer and its state, as they are after the first step."""
    kind = config.optimizer.kind
    if kind == "adamw":
        weights = [own_share(weight) for group in model.parameter_groups() for _, weight in group.parameters]
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
