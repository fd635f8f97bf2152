"""The loss of a checkpoint on one batch, from stored features and from features computed anew.

The batch is the first step of the order that the checkpoint's own data settings give under the audit's seed,
an example at a time, so that the same examples come from both; those that no prompt can be written of are
left out of both. Where the checkpoint's reducer works while features are read, it reduces both.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from infra.storage import Storage
from operators.collate import collate_training
from pipelines.stream.fresh import FreshFeatures, FreshReader
from pipelines.stream.once import open_once
from pipelines.stream.stream import FeatureStream
from pipelines.train.assembly import Assembly, restore
from pipelines.train.checkpoint import Checkpoint, open_checkpoint
from pipelines.train.precision import choose_device, computing, dtype_of
from schemas.corpus import Manifest
from schemas.errors import MismatchError, NotFoundError, SampleError
from schemas.feature import FeatureSpec
from schemas.fidelity import LossChange
from schemas.training import RunConfig

NUM_EXAMPLES = 8


@dataclass(frozen=True, slots=True)
class _Loss:
    total: float
    num_labels: int
    num_examples: int


def open_audited_checkpoint(path: Path, spec: FeatureSpec) -> Checkpoint:
    """A checkpoint that was trained on features of this spec.

    Raises:
        NotFoundError: there is none.
        MismatchError: it was trained on others; the message names every field that differs.
    """
    checkpoint = open_checkpoint(path)
    differences = checkpoint.state.identity.spec.list_differences(spec)
    if differences:
        raise MismatchError(
            f"{checkpoint.folder} was trained on other features: {'; '.join(differences)}; name a checkpoint "
            "of this spec, or the spec of the checkpoint with --spec"
        )
    return checkpoint


def measure_loss_change(
    storage: Storage,
    manifest: Manifest,
    spec: str,
    checkpoint: Checkpoint,
    fresh: FreshFeatures,
    seed: int,
) -> LossChange:
    """Both losses.

    Raises:
        NotFoundError: when no example of the batch can be written.
    """
    config = checkpoint.config
    data = config.data.in_counts(NUM_EXAMPLES, 1)
    reducer = config.model.reducer
    stream = open_once(storage, manifest, spec, data, reducer, seed)
    assembly = restore(checkpoint, to_train=False)
    assembly.model.to(choose_device(config.run)).eval()
    stored = _measure(stream, assembly, config.run)
    stream.load_state_dict(stream.state_dict() | {"epoch": 0, "step": 0})
    held = fresh.make_reducer(reducer) if reducer.needs_focus else None
    stream.reader = FreshReader(storage, manifest, spec, fresh, held)
    recomputed = _measure(stream, assembly, config.run)
    if not stored.num_labels:
        raise NotFoundError("no prompt can be written of the examples drawn; try another --seed")
    return LossChange(
        checkpoint_step=checkpoint.state.step,
        checkpoint_run_sha256=checkpoint.state.run_sha256,
        num_examples=stored.num_examples,
        num_labels=stored.num_labels,
        stored=stored.total / stored.num_labels,
        recomputed=recomputed.total / recomputed.num_labels,
    )


def _measure(stream: FeatureStream, assembly: Assembly, run: RunConfig) -> _Loss:
    device = assembly.model.token_embeddings.weight.device
    total, num_labels, num_examples = 0.0, 0, 0
    for examples in next(iter(stream)):
        try:
            batch = collate_training(examples, assembly.prompter)
        except SampleError:
            continue
        with torch.inference_mode(), computing(device, dtype_of(run)):
            loss = assembly.model(batch.to(device))
        total += float(loss.total)
        num_labels += loss.num_labels
        num_examples += len(examples)
    return _Loss(total, num_labels, num_examples)
