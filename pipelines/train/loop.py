"""The training loop: plain, and the same after a kill as without one.

A step takes the examples of one global batch, in micro-batches that fit into memory. Its loss is the mean
over the learned tokens of the whole batch, so how it is cut into micro-batches does not weigh examples;
gradients are summed as they come. Everything that decides the next step is in a checkpoint or follows from
the step's number: the rate, the random state (for backbones with dropout), the position in the order of
examples. Leaves out: several GPUs; reading ahead, which is the source's work.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from operators.batch import IGNORED_LABEL, ModelBatch, TrainingExample
from operators.collate import collate_training
from pipelines.train.assembly import Assembly
from pipelines.train.checkpoint import (
    Checkpoint,
    Snapshot,
    check_resumable,
    load_optimizer,
    remove_old_checkpoints,
    write_checkpoint,
)
from pipelines.train.metrics import MetricsFile, StepReport
from pipelines.train.optimizer import Optimizer, build_optimizer
from pipelines.train.precision import choose_device, computing, dtype_of
from schemas.checkpoint import RunIdentity
from schemas.errors import DivergedError, WorkError
from schemas.training import TrainConfig

MicroBatches = list[list[TrainingExample]]


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


@dataclass(frozen=True, slots=True)
class StepGradients:
    """What one global batch gave; the gradients stand in the parameters."""

    loss: float
    num_labels: int
    num_tokens: int


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
        MismatchError: `resume_from` is of another run.
        ConflictError: `out` holds a checkpoint that this run would write.
        DivergedError: a loss or a gradient is not finite.
        WorkError: the source ended early.
        SampleError: an example cannot be written; the planner should have left it out.
    """
    config, out = run.config, Path(run.config.out)
    optimizer, first = _prepare(run, resume_from)
    metrics = MetricsFile(out / "metrics.jsonl", first)
    steps = iter(run.source)
    folder = out if resume_from is None else resume_from.folder
    for step in range(first, run.num_steps):
        report = _take_step(run, optimizer, steps, step)
        if report.step % config.run.log_every == 0 or report.step == run.num_steps:
            metrics.append(report)
        if on_step is not None:
            on_step(report)
        if report.step % config.run.save_every == 0 or report.step == run.num_steps:
            folder = _save(run, optimizer, report.step)
    return folder


def accumulate_gradients(
    assembly: Assembly, micro_batches: MicroBatches, dtype: torch.dtype
) -> StepGradients:
    """Add the gradients of a global batch's mean loss to the parameters.

    Raises:
        DivergedError: the loss of a micro-batch is not finite.
        SampleError: an example cannot be written.
    """
    model = assembly.model
    device = model.token_embeddings.weight.device
    batches = [collate_training(examples, assembly.prompter) for examples in micro_batches if examples]
    num_labels = sum(_count_labels(batch) for batch in batches)
    loss = 0.0
    for batch in batches:
        with computing(device, dtype):
            share = model(batch.to(device)).total / num_labels
        value = float(share.detach())
        if not math.isfinite(value):
            ids = ", ".join(batch.example_ids)
            raise DivergedError(f"the loss of a batch is {value}, with examples {ids}; {_ADVICE}")
        share.backward()
        loss += value
    return StepGradients(loss, num_labels, sum(int(batch.attention_mask.sum()) for batch in batches))


_ADVICE = "lower `optimizer.lr`, or look at these with `onetoken inspect`"


def _prepare(run: TrainingRun, resume_from: Checkpoint | None) -> tuple[Optimizer, int]:
    """Put the model where it computes, and everything else where the checkpoint left it."""
    if run.config.run.threads is not None:
        torch.set_num_threads(run.config.run.threads)
    run.assembly.model.to(choose_device(run.config.run)).train()
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
    if micro_batches is None or not any(micro_batches):
        raise WorkError(f"the order of examples ended after {step} of {run.num_steps} steps")
    torch.manual_seed(run.config.run.seed * 1_000_003 + step)  # pyright: ignore[reportUnknownMemberType]
    optimizer.begin_step(step)
    gradients = accumulate_gradients(run.assembly, micro_batches, dtype_of(run.config.run))
    grad_norm = float(optimizer.end_step())
    if not math.isfinite(grad_norm):
        ids = ", ".join(example.example_id for examples in micro_batches for example in examples)
        raise DivergedError(f"the gradient of step {step + 1} is not finite, with examples {ids}; {_ADVICE}")
    return StepReport(
        step=step + 1,
        epoch=int(run.source.state_dict()["epoch"]),
        loss=gradients.loss,
        grad_norm=grad_norm,
        rates=optimizer.rates_at(step),
        num_examples=sum(map(len, micro_batches)),
        num_tokens=gradients.num_tokens,
        num_labels=gradients.num_labels,
        step_s=time.perf_counter() - started_s,
        data_wait_s=waited_s,
    )


def _save(run: TrainingRun, optimizer: Optimizer, step: int) -> Path:
    snapshot = Snapshot(
        model=run.assembly.model,
        tokenizer=run.assembly.tokenizer,
        optimizer=optimizer,
        config=run.config,
        identity=run.identity,
        step=step,
        stream=dict(run.source.state_dict()),
    )
    out = Path(run.config.out)
    folder = write_checkpoint(out, snapshot)
    remove_old_checkpoints(out, run.config.run.keep_last)
    return folder


def _count_labels(batch: ModelBatch) -> int:
    """Tokens that are predicted: the first of a row never is."""
    return int((batch.labels[:, 1:] != IGNORED_LABEL).sum())
