"""What torch itself says that a training step holds at most: its profiler's record of what comes and goes."""

from typing import Any, cast

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM

from operators.frame_by_frame import all_together
from pipelines.train.lora import add_lora
from pipelines.train.model import build_model
from pipelines.train.optimizer import build_optimizer
from pipelines.train.precision import cast_weights, computing, dtype_of, trained_dtype_of
from pipelines.train.processes import ALONE, Processes
from pipelines.train.shape import plan_of, shape_of
from pipelines.train.sharding import own_share, shard_model
from pipelines.train.step_shape import StepShape, make_batch
from schemas.errors import WorkError
from schemas.training import TrainConfig

CPU = torch.device("cpu")


def record_peak(
    llm_config: LlamaConfig, config: TrainConfig, step: StepShape, processes: Processes = ALONE
) -> int:
    """Bytes at the peak of a run's second step, on the CPU, frames going together as on a GPU.

    Args:
        llm_config: of the language model, whose weights are drawn.
        config: of the run.
        step: the shape of its micro-batches.
        processes: that have met, and divide the model; this is one of them.

    Raises:
        WorkError: the profiler saw no allocations.
    """
    llm = LlamaForCausalLM(llm_config)
    model = build_model(llm, shape_of(config, step.encoder_width), config.stage, plan=plan_of(config))
    if config.model.lora is not None:
        add_lora(model, config.model.lora, config.run.seed)
    cast_weights(model, dtype_of(config.run), trained_dtype_of(config))
    shard_model(model, config, processes, CPU)
    model.train()
    resident = sum(own_share(tensor).nbytes for tensor in [*model.parameters(), *model.buffers()])
    optimizer = build_optimizer(model, config, 2)
    batch = make_batch(step)
    layout = model.lay_out(batch, batch.frames, packed=model.plan.packed)

    def take_step(number: int) -> None:
        optimizer.begin_step(number)
        for _ in range(-(-config.data.units_per_step // processes.world_size)):
            with computing(CPU, dtype_of(config.run)):
                share = model(batch, layout).total / step.num_labels
            share.backward()
        optimizer.end_step()

    take_step(0)
    resident += sum(own_share(tensor).nbytes for tensor in optimizer.state_tensors().values())
    resident += 0 if batch.frames is None else batch.frames.nbytes
    with all_together(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        take_step(1)
    return resident + _find_peak(profiler)


def _find_peak(profiler: profile) -> int:
    results = cast(Any, profiler).profiler.kineto_results
    changes = [
        (int(event.start_ns()), int(event.nbytes()))
        for event in results.events()
        if event.name() == "[memory]"
    ]
    if not changes:
        raise WorkError("torch's profiler recorded no allocation")
    now = peak = 0
    for _, num_bytes in sorted(changes, key=lambda change: change[0]):
        now += num_bytes
        peak = max(peak, now)
    return peak
