"""The gradients of one step: of a global batch, over micro-batches and processes.

The loss is the sum over the learned tokens of all of them, divided by their number: neither the cut into
micro-batches nor the number of processes weighs an example otherwise. Every process runs as many rounds as
the others, and in each runs the vision modules as often: where it has no picture, or no example, it computes
on one empty view, or one token, times 0. Without that, the exchange of gradients would wait for ever.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import torch

from operators.batch import IGNORED_LABEL, ModelBatch, TrainingExample
from operators.collate import collate_training
from pipelines.train.assembly import Assembly
from pipelines.train.precision import computing
from pipelines.train.processes import ALONE, Processes
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
    rounds = [
        collate_training(part, assembly.prompter, keep_stored=True) if part else None
        for part in micro_batches
    ]
    if processes.is_alone:
        rounds = [batch for batch in rounds if batch is not None]
    batches = [batch for batch in rounds if batch is not None]
    counts = [
        sum(_count_labels(batch) for batch in batches),
        sum(int(batch.attention_mask.sum()) for batch in batches),
        sum(len(batch.example_ids) for batch in batches),
    ]
    num_labels, num_tokens, num_examples = (int(count) for count in processes.add(counts))
    passes = _agree_on_passes(assembly, rounds, processes)
    total, bad_ids = 0.0, list[str]()
    for batch, num_passes in zip(rounds, passes, strict=True):
        share = _share(
            assembly, batch or _empty_batch(), dtype, num_passes, num_labels / processes.world_size
        )
        value = float(share.detach()) / processes.world_size
        if not math.isfinite(value):
            bad_ids += list(batch.example_ids) if batch else []
            if processes.is_alone:
                break
        total += value
        cast(Any, share).backward()
    (loss,) = processes.add([total if not bad_ids else math.nan])
    if not math.isfinite(loss):
        ids = ", ".join(bad_ids) or "of another process"
        raise DivergedError(f"the loss of a batch is {loss}, with examples {ids}; {ADVICE}")
    return StepGradients(loss, num_labels, num_tokens, num_examples)


def _share(
    assembly: Assembly, batch: ModelBatch, dtype: torch.dtype, num_passes: int, divisor: float
) -> torch.Tensor:
    """A micro-batch's part of the mean loss."""
    model = assembly.model
    device = torch.device(model.token_embeddings.weight.device.type)
    moved = batch.to(device)
    layout = model.lay_out(batch, moved.frames)
    with computing(device, dtype):
        return model(moved, layout, num_passes).total / max(divisor, 1e-9)


def _agree_on_passes(
    assembly: Assembly, rounds: Sequence[ModelBatch | None], processes: Processes
) -> list[int]:
    """How often the vision modules run in each round."""
    needed = [0 if batch is None else assembly.model.count_passes(batch) for batch in rounds]
    if processes.is_alone:
        return needed
    return [max(1, int(count)) for count in processes.largest(needed)]


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


def _count_labels(batch: ModelBatch) -> int:
    """Tokens that are predicted: the first of a row never is."""
    return int((batch.labels[:, 1:] != IGNORED_LABEL).sum())
