"""The gradients of one step: of a global batch, over micro-batches and processes.

The loss is the sum over the learned tokens of all of them, divided by their number: neither the cut into
micro-batches nor the number of processes weighs an example otherwise. Every process runs as many rounds as
the others, and in each runs the vision modules as often: where it has no picture, or no example, it computes
on one empty view, or one token, times 0. Without that, the exchange of gradients would wait for ever.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor

from operators.batch import IGNORED_LABEL, ModelBatch, TrainingExample
from operators.collate import collate_training
from pipelines.train.assembly import Assembly
from pipelines.train.precision import computing
from pipelines.train.processes import ALONE, Processes
from pipelines.train.utilization import step_flops
from schemas.errors import DivergedError

MicroBatches = list[list[TrainingExample]]
ADVICE: Final = "lower `optimizer.lr`, or look at these with `onetoken inspect`"


@dataclass(frozen=True, slots=True)
class StepGradients:
    """What one global batch gave; the gradients stand in the parameters."""

    loss: float
    num_labels: int
    num_tokens: int
    num_examples: int
    flops: float
    """Of all processes, forward and backward."""


class RoundLoss(NamedTuple):
    """What one round gave."""

    total: Float[Tensor, ""]
    """Summed over learned tokens."""
    flops: float


def accumulate_gradients(
    assembly: Assembly, micro_batches: MicroBatches, dtype: torch.dtype, processes: Processes = ALONE
) -> StepGradients:
    """Add the gradients of a global batch's mean loss to the parameters.

    Args:
        assembly: the model; with several processes each holds its share.
        micro_batches: those of this process; some may be empty, and each process has as many.
        dtype: what layers compute in.
        processes: that compute together.

    Raises:
        DivergedError: the loss of a micro-batch is not finite.
        SampleError: an example cannot be written.
    """
    rounds = collate_rounds(assembly, micro_batches, processes)
    batches = [batch for batch in rounds if batch is not None]
    counts = [
        sum(count_labels(batch) for batch in batches),
        sum(int(batch.attention_mask.sum()) for batch in batches),
        sum(len(batch.example_ids) for batch in batches),
    ]
    num_labels, num_tokens, num_examples = (int(count) for count in processes.add(counts))
    passes = agree_on_passes(assembly, rounds, processes)
    total, flops, bad_ids = 0.0, 0.0, list[str]()
    for batch, num_passes in zip(rounds, passes, strict=True):
        losses = sum_losses(assembly, batch, dtype, num_passes)
        share = losses.total * processes.world_size / max(num_labels, 1)
        value = float(share.detach()) / processes.world_size
        if not math.isfinite(value):
            bad_ids += list(batch.example_ids) if batch else []
            if processes.is_alone:
                break
        total, flops = total + value, flops + losses.flops
        cast(Any, share).backward()
    loss, all_flops = processes.add([math.nan if bad_ids else total, flops])
    if not math.isfinite(loss):
        ids = ", ".join(processes.collect(bad_ids))
        raise DivergedError(f"the loss of a batch is {loss}, with examples {ids}; {ADVICE}")
    return StepGradients(loss, num_labels, num_tokens, num_examples, all_flops)


def collate_rounds(
    assembly: Assembly, micro_batches: MicroBatches, processes: Processes
) -> list[ModelBatch | None]:
    """A batch for each round of a process; None where it has no examples, which alone it leaves out."""
    rounds = [
        collate_training(part, assembly.prompter, keep_stored=True) if part else None
        for part in micro_batches
    ]
    return [batch for batch in rounds if batch is not None] if processes.is_alone else rounds


def sum_losses(
    assembly: Assembly, batch: ModelBatch | None, dtype: torch.dtype, num_passes: int
) -> RoundLoss:
    """The loss of a batch, summed over its learned tokens; without one, 0 through all of the model."""
    model, given = assembly.model, batch or _empty_batch()
    device = torch.device(model.token_embeddings.weight.device.type)
    moved = given.to(device)
    layout = model.lay_out(given, moved.frames, packed=model.plan.packed)
    with computing(device, dtype):
        total = model(moved, layout, num_passes).total
    num_views, num_patches = (1, 0) if moved.frames is None else moved.frames.shape[1:3]
    return RoundLoss(total, step_flops(model, given, count_labels(given), num_patches, num_views))


def agree_on_passes(
    assembly: Assembly, rounds: Sequence[ModelBatch | None], processes: Processes
) -> list[int]:
    """How often the vision modules run in each round: everywhere as often as one process needs.

    Where none has vision they don't run. They get no gradient then, rather than zeros that would move them on
    by their moments: a step of text alone is the same on any number of processes.
    """
    needed = [0 if batch is None else assembly.model.count_passes(batch) for batch in rounds]
    return needed if processes.is_alone else [int(count) for count in processes.largest(needed)]


def _empty_batch() -> ModelBatch:
    """One token, of which nothing is learned."""
    token_ids = torch.zeros(1, 1, dtype=torch.int64)
    return ModelBatch(
        token_ids=token_ids,
        labels=torch.full_like(token_ids, IGNORED_LABEL),
        attention_mask=torch.ones_like(token_ids, dtype=torch.bool),
        fuse_mask=torch.zeros_like(token_ids, dtype=torch.bool),
        frames=None,
        frames_per_medium=(),
        media_per_example=(0,),
        example_ids=("empty",),
    )


def count_labels(batch: ModelBatch) -> int:
    """Tokens that are predicted: the first of a row never is."""
    return int((batch.labels[:, 1:] != IGNORED_LABEL).sum())
