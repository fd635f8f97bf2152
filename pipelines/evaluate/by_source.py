"""Loss and accuracy by source, on examples that a checkpoint was not trained on.

Held out is what training leaves out: the shards that its configuration names under `data.exclude` (a shard is
a random sample of its modality), or all of another corpus with features of the same spec. Loss is the mean
over learned tokens. An example counts for accuracy when its last answer is a few words: it is right when the
greedy answer is the same words, without capitals and a last period. Examples that no prompt can be written of
are left out and counted.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Final

import torch

from infra.storage import Storage
from operators.batch import TrainingExample
from operators.collate import collate_training
from pipelines.engine import Progress, no_progress
from pipelines.stream.once import open_once
from pipelines.train.answer import answer
from pipelines.train.assembly import Assembly, restore
from pipelines.train.checkpoint import Checkpoint
from pipelines.train.context import check_room
from pipelines.train.precision import choose_device, computing, dtype_of
from schemas.corpus import Manifest
from schemas.errors import ConfigError, SampleError

FEW_WORDS: Final = 5
BATCH_SIZE: Final = 8
ANSWER_TOKENS: Final = 24


@dataclass(slots=True)
class SourceResult:
    """One source's examples."""

    num_examples: int = 0
    num_labels: int = 0
    total_loss: float = 0.0
    num_asked: int = 0
    """Examples whose last answer is a few words."""
    num_right: int = 0
    num_unwritable: int = 0
    """Examples that no prompt can be written of."""

    @property
    def loss(self) -> float | None:
        """Mean over learned tokens; None of nothing."""
        return self.total_loss / self.num_labels if self.num_labels else None

    @property
    def accuracy(self) -> float | None:
        """Share of right answers; None where nothing was asked."""
        return self.num_right / self.num_asked if self.num_asked else None


def add_up(results: Iterable[SourceResult]) -> SourceResult:
    """All of them as one: its means are over all tokens and all questions."""
    whole = SourceResult()
    for one in results:
        for part in fields(SourceResult):
            setattr(whole, part.name, getattr(whole, part.name) + getattr(one, part.name))
    return whole


def list_held_out(checkpoint: Checkpoint, manifest: Manifest, *, is_another: bool) -> list[str]:
    """Names of the shards to evaluate on.

    Args:
        checkpoint: what is evaluated.
        manifest: of the corpus to evaluate on.
        is_another: whether that is another corpus than the checkpoint was trained on.

    Raises:
        ConfigError: the checkpoint was trained on all of it.
    """
    names = [leaf.name for leaf in manifest.plan]
    if is_another:
        return names
    excluded = frozenset(checkpoint.config.data.exclude)
    if not excluded:
        raise ConfigError(
            f"{checkpoint.folder} was trained on all shards of its corpus; hold some out with `run.held_out` "
            "or `data.exclude` in its configuration, or name another corpus with --corpus"
        )
    return [name for name in names if name in excluded]


def evaluate_sources(
    storage: Storage,
    manifest: Manifest,
    spec: str,
    checkpoint: Checkpoint,
    shards: Sequence[str],
    progress: Progress = no_progress,
) -> dict[str, SourceResult]:
    """Loss and accuracy on every example of some shards, by source.

    Raises:
        ConfigError: the shards hold no example of the checkpoint's sources, or one that is longer than what
            the language model reads.
        NotFoundError: they have no features of this spec.
    """
    chosen = frozenset(shards)
    others = tuple(leaf.name for leaf in manifest.plan if leaf.name not in chosen)
    known = {source.name for source in manifest.sources}
    mixture = checkpoint.config.data.sources
    sources = dict.fromkeys(sorted(known & mixture.keys()) if mixture else sorted(known), 1.0)
    counted = checkpoint.config.data.in_counts(BATCH_SIZE, BATCH_SIZE)
    data = counted.model_copy(update={"exclude": others, "sources": sources or None})
    stream = open_once(storage, manifest, spec, data, checkpoint.config.model.reducer)
    assembly = restore(checkpoint, to_train=False)
    assembly.model.to(choose_device(checkpoint.config.run)).eval()
    results: dict[str, SourceResult] = defaultdict(SourceResult)
    num_steps = stream.num_steps(0)
    for number, step in enumerate(stream, start=1):
        for examples in step:
            writable = list(_list_writable(assembly, examples, results))
            _add_losses(assembly, checkpoint, writable, results)
            _add_answers(assembly, checkpoint, writable, results)
        progress("evaluate", number, num_steps)
    return dict(sorted(results.items()))


def _add_losses(
    assembly: Assembly,
    checkpoint: Checkpoint,
    examples: list[TrainingExample],
    results: dict[str, SourceResult],
) -> None:
    if not examples:
        return
    device = assembly.model.token_embeddings.weight.device
    batch = collate_training(examples, assembly.prompter).to(device)
    check_room(assembly.model, batch)
    with torch.inference_mode(), computing(device, dtype_of(checkpoint.config.run)):
        loss = assembly.model(batch)
    totals = [float(total) for total in loss.example_totals]
    for example, total, num_labels in zip(examples, totals, loss.example_labels, strict=True):
        result = results[example.source]
        result.num_examples += 1
        result.total_loss += total
        result.num_labels += num_labels


def _list_writable(
    assembly: Assembly, examples: list[TrainingExample], results: dict[str, SourceResult]
) -> Iterator[TrainingExample]:
    for example in examples:
        try:
            assembly.prompter.write_training(example.turns, len(example.media))
        except SampleError:
            results[example.source].num_unwritable += 1
        else:
            yield example


def _add_answers(
    assembly: Assembly,
    checkpoint: Checkpoint,
    examples: list[TrainingExample],
    results: dict[str, SourceResult],
) -> None:
    asked = [example for example in examples if _is_short(example)]
    if not asked:
        return
    texts = answer(assembly, asked, ANSWER_TOKENS, checkpoint.config.run)
    for example, text in zip(asked, texts, strict=True):
        result = results[example.source]
        result.num_asked += 1
        result.num_right += _plain(text) == _plain(example.turns[-1].text)


def _is_short(example: TrainingExample) -> bool:
    last = example.turns[-1]
    return last.role == "gpt" and len(last.text.split()) <= FEW_WORDS


def _plain(text: str) -> str:
    return text.strip().rstrip(".").lower()
