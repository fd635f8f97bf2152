"""The training loop: plain, and the same after a kill as without one.

A step takes the examples of one global batch, in micro-batches that fit into memory. Its loss is the mean
over the learned tokens of the whole batch, so how it is cut into micro-batches does not weigh examples;
gradients are summed as they come. Everything that decides the next step is in a checkpoint or follows from
the step's number: the rate, the random state (for backbones with dropout), the position in the order of
examples. With several processes each runs this loop on its share of every step; the first one logs and saves.
Leaves out: reading ahead, which is the source's work.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from pipelines.train.agreement import check_agreement
from pipelines.train.assembly import Assembly
from pipelines.train.checkpoint import (
    Checkpoint,
    Snapshot,
    check_resumable,
    latest_checkpoint,
    load_optimizer,
    unique_tensors,
)
from pipelines.train.evaluation import HeldOut, measure_loss
from pipelines.train.gradients import ADVICE, MicroBatches, accumulate_gradients
from pipelines.train.metrics import Metrics, StepReport
from pipelines.train.optimizer import Optimizer, build_optimizer
from pipelines.train.precision import choose_device, dtype_of
from pipelines.train.processes import ALONE, Processes
from pipelines.train.saving import CheckpointWriter, copy_tensors
from pipelines.train.sharding import shard_model
from pipelines.train.utilization import memory_bytes, peak_flops
from schemas.checkpoint import RunIdentity
from schemas.errors import DivergedError, WorkError
from schemas.training import TrainConfig


@runtime_checkable
class StepSource(Protocol):
    """Examples in training order. Its state counts steps handed out, not those read ahead."""

    def __iter__(self) -> Iterator[MicroBatches]:
        """Steps from the position on, epoch after epoch, each in micro-batches; some of them may be empty."""
        ...

    def state_dict(self) -> Mapping[str, int | str]:
        """The position, `epoch` and `step` in it, and what else must agree when it is loaded."""
        ...

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go to a position; raises `MismatchError` when it is one of another order."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRun:
    """What is trained, on what, for how long."""

    assembly: Assembly
    config: TrainConfig
    source: StepSource
    identity: RunIdentity
    num_steps: int
    processes: Processes = ALONE
    """Those that train together; each has a run of its own, with its share of the source."""
    held_out: HeldOut | None = None
    """What the loss is measured on every `run.evaluate_every` steps."""
    shall_stop: Callable[[], bool] = bool
    """Asked after every step; once it is true, the run saves and ends."""


def train(
    run: TrainingRun,
    resume_from: Checkpoint | None = None,
    on_step: Callable[[StepReport], None] | None = None,
) -> Path:
    """Train up to `num_steps`, writing checkpoints and metrics below the configuration's `out`.

    Args:
        run: its assembly is a fresh one, or that of `resume_from`, restored to train.
        resume_from: the checkpoint to go on from.
        on_step: called after every step.

    Returns:
        The last checkpoint; of a complete run, the one it was resumed from.

    Raises:
        MismatchError: `resume_from` is of another run, or the processes do not begin alike.
        ConflictError: `out` holds a checkpoint that this run would write.
        ConfigError: the optimizer is for one process.
        DivergedError: a loss or a gradient is not finite.
        WorkError: the source ended early.
        SampleError: an example cannot be written; the planner should have left it out.
    """
    config, out = run.config, Path(run.config.out)
    optimizer, first = _prepare(run, resume_from)
    metrics = Metrics(out, first) if run.processes.is_first else None
    steps = iter(run.source)
    with CheckpointWriter(out, config.run.keep_last) as writer:
        for step in range(first, run.num_steps):
            report = _take_step(run, optimizer, steps, step)
            is_last = report.step == run.num_steps or _shall_stop(run)
            report = _with_held_out(run, report, is_last)
            is_logged = is_last or report.held_out_loss is not None
            if metrics and (is_logged or report.step % config.run.log_every == 0):
                metrics.append(report)
            if on_step is not None:
                on_step(report)
            if is_last or report.step % config.run.save_every == 0:
                _save(run, optimizer, report.step, writer)
            if is_last:
                break
        written = writer.wait()
    if metrics:
        metrics.close()
    run.processes.wait()
    return written or latest_checkpoint(out) or out


def _prepare(run: TrainingRun, resume_from: Checkpoint | None) -> tuple[Optimizer, int]:
    """Put the model where it computes, and everything else where the checkpoint left it."""
    if run.config.run.threads is not None:
        torch.set_num_threads(run.config.run.threads)
    check_agreement(run.processes, resume_from, run.config, run.identity)
    shard_model(run.assembly.model, run.config, run.processes, choose_device(run.config.run))
    run.assembly.model.train()
    optimizer = build_optimizer(run.assembly.model, run.config, run.num_steps)
    if resume_from is None:
        return optimizer, 0
    check_resumable(resume_from, run.config, run.identity)
    load_optimizer(optimizer, resume_from)
    run.source.load_state_dict(resume_from.state.stream)
    return optimizer, resume_from.state.step


def _take_step(
    run: TrainingRun, optimizer: Optimizer, steps: Iterator[MicroBatches], step: int
) -> StepReport:
    started_s = time.perf_counter()
    micro_batches = next(steps, None)
    waited_s = time.perf_counter() - started_s
    if micro_batches is None or (run.processes.is_alone and not any(micro_batches)):
        raise WorkError(f"the order of examples ended after {step} of {run.num_steps} steps")
    torch.manual_seed(run.config.run.seed * 1_000_003 + step)  # pyright: ignore[reportUnknownMemberType]
    optimizer.begin_step(step)
    gradients = accumulate_gradients(run.assembly, micro_batches, dtype_of(run.config.run), run.processes)
    grad_norm = float(optimizer.end_step())
    if not math.isfinite(grad_norm):
        mine = [example.example_id for examples in micro_batches for example in examples]
        ids = ", ".join(run.processes.collect(mine))
        raise DivergedError(f"the gradient of step {step + 1} is not finite, with examples {ids}; {ADVICE}")
    device = choose_device(run.config.run)
    step_s, peak = time.perf_counter() - started_s, peak_flops(device)
    return StepReport(
        step=step + 1,
        epoch=int(run.source.state_dict()["epoch"]),
        loss=gradients.loss,
        grad_norm=grad_norm,
        rates=optimizer.rates_at(step),
        num_examples=gradients.num_examples,
        num_tokens=gradients.num_tokens,
        num_labels=gradients.num_labels,
        step_s=step_s,
        data_wait_s=waited_s,
        memory_bytes=memory_bytes(device),
        mfu=gradients.flops / (step_s * peak * run.processes.world_size) if peak else None,
    )


def _with_held_out(run: TrainingRun, report: StepReport, is_last: bool) -> StepReport:
    """The report with the loss on held-out examples, where it is time to measure it."""
    every = run.config.run.evaluate_every
    if run.held_out is None or every is None or (report.step % every and not is_last):
        return report
    loss = measure_loss(run.assembly, run.held_out, dtype_of(run.config.run), run.processes)
    return replace(report, held_out_loss=loss)


def _shall_stop(run: TrainingRun) -> bool:
    """Whether any process was asked to stop: then all of them do, after the same step."""
    return bool(run.processes.largest([float(run.shall_stop())])[0])


def _save(run: TrainingRun, optimizer: Optimizer, step: int, writer: CheckpointWriter) -> None:
    """Copy what a checkpoint holds, and let it be written by the first process."""
    model, is_first = run.assembly.model, run.processes.is_first
    weights = copy_tensors(unique_tensors(model), keep=is_first)
    moments = copy_tensors(optimizer.state_tensors(), keep=is_first)
    if is_first:
        writer.save(
            Snapshot(
                weights=weights,
                moments=moments,
                llm_config=model.llm.config,
                tokenizer=run.assembly.tokenizer,
                config=run.config,
                identity=run.identity,
                step=step,
                stream=dict(run.source.state_dict()),
            )
        )
