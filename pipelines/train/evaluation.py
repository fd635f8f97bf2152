"""The loss on examples that are held out of training, between two steps of it.

Every process takes its share of the same batches; the mean is over the learned tokens of all of them. Nothing
of the training changes by it: no gradient, no random number, no position in the order of examples.
"""

import math
from collections.abc import Callable, Iterable

import torch

from operators.batch import TrainingExample
from pipelines.train.assembly import Assembly
from pipelines.train.gradients import agree_on_passes, collate_rounds, count_labels, sum_losses
from pipelines.train.processes import ALONE, Processes

HeldOut = Callable[[], Iterable[list[list[TrainingExample]]]]
"""Steps of micro-batches, the same every time it is asked, as many for each process."""


def measure_loss(
    assembly: Assembly, held_out: HeldOut, dtype: torch.dtype, processes: Processes = ALONE
) -> float:
    """The mean loss of the learned tokens; NaN where nothing is held out.

    Raises:
        SampleError: an example cannot be written.
    """
    model = assembly.model
    was_training = model.training
    model.eval()
    total, num_labels = 0.0, 0
    try:
        with torch.no_grad():
            for micro_batches in held_out():
                rounds = collate_rounds(assembly, micro_batches, processes)
                passes = agree_on_passes(assembly, rounds, processes)
                for batch, num_passes in zip(rounds, passes, strict=True):
                    total += float(sum_losses(assembly, batch, dtype, num_passes).total)
                    num_labels += 0 if batch is None else count_labels(batch)
    finally:
        model.train(was_training)
    all_total, all_labels = processes.add([total, num_labels])
    return all_total / all_labels if all_labels else math.nan
