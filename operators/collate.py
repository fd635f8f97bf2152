"""Examples and their prompts -> the batch that a model takes.

Rows are right-padded to the longest. Features are concatenated over frames, never padded, so all examples
of a batch have the same number of views; the order of training sees to that. Features that are still as
their codec wrote them are decoded here, or stay so until the batch is moved to its device. Cost: one copy of
decoded features.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Final

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from operators.batch import IGNORED_LABEL, ModelBatch, TrainingExample
from operators.prompt import Prompt, Prompter
from operators.stored import StoredFeatures, join_stored
from schemas.errors import MismatchError, SampleError

_PADDING_ID: Final = 0
"""Any id of the vocabulary does: masks say what is padding."""


def collate_training(
    examples: Sequence[TrainingExample], prompter: Prompter, *, keep_stored: bool = False
) -> ModelBatch:
    """A batch whose answers are learned.

    Args:
        examples: of the batch.
        prompter: of the stage.
        keep_stored: leave features as their codec wrote them, for `ModelBatch.to` to decode on the device.

    Raises:
        SampleError: an example cannot be written; the message holds its id.
        MismatchError: features of the examples differ in views, patches or width.
    """
    prompts: list[Prompt] = []
    for example in examples:
        with _naming(example):
            prompts.append(prompter.write_training(example.turns, len(example.media)))
    return _collate(examples, prompts, keep_stored)


def collate_questions(examples: Sequence[TrainingExample], prompter: Prompter) -> ModelBatch:
    """A batch to be answered: each conversation up to its last question; an answer after it is left out.

    Raises:
        SampleError: an example cannot be written; the message holds its id.
        MismatchError: features of the examples differ in views, patches or width.
    """
    prompts: list[Prompt] = []
    for example in examples:
        turns = example.turns[:-1] if example.turns[-1].role == "gpt" else example.turns
        with _naming(example):
            prompts.append(prompter.write_question(turns, len(example.media)))
    return _collate(examples, prompts, keep_stored=False)


@contextmanager
def _naming(example: TrainingExample) -> Generator[None]:
    try:
        yield
    except SampleError as error:
        where = f"example {example.example_id} of {example.source}"
        raise SampleError(error.code, f"{where}: {error.message}") from error


def _collate(examples: Sequence[TrainingExample], prompts: Sequence[Prompt], keep_stored: bool) -> ModelBatch:
    lengths = torch.tensor([len(prompt.token_ids) for prompt in prompts])
    media = [medium for example in examples for medium in example.media]
    stored = [medium for medium in media if isinstance(medium, StoredFeatures)]
    is_stored = keep_stored and bool(stored) and len(stored) == len(media)
    patches = [] if is_stored else [medium.patches for medium in media]
    counts = [medium.counts for medium in media]
    num_frames = [medium.num_frames for medium in stored] if is_stored else [one.shape[0] for one in patches]
    return ModelBatch(
        token_ids=_pad([prompt.token_ids for prompt in prompts], _PADDING_ID),
        labels=_pad([prompt.labels for prompt in prompts], IGNORED_LABEL),
        attention_mask=torch.arange(int(lengths.max()))[None, :] < lengths[:, None],
        fuse_mask=_pad([prompt.fuse_mask for prompt in prompts], 0).bool(),
        frames=_concatenate_frames(patches, counts[0] is not None) if patches else None,
        frames_per_medium=tuple(num_frames),
        media_per_example=tuple(len(example.media) for example in examples),
        example_ids=tuple(example.example_id for example in examples),
        stored=join_stored(stored) if is_stored else None,
        frame_tokens=_join_counts(counts),
    )


def _join_counts(counts: Sequence[tuple[int, ...] | None]) -> tuple[int, ...] | None:
    """Tokens of each frame of reduced media; None where none is reduced."""
    reduced = [own for own in counts if own is not None]
    if len(reduced) not in (0, len(counts)):
        raise MismatchError("a batch holds media that were reduced and others that were not")
    return tuple(count for own in reduced for count in own) if reduced else None


def _pad(rows: Sequence[Sequence[int]], filler: int) -> Int64[Tensor, "batch length"]:
    tensors = [torch.tensor(row, dtype=torch.int64) for row in rows]
    return pad_sequence(tensors, batch_first=True, padding_value=filler)


def _concatenate_frames(
    patches: Sequence[Float[Tensor, "_ views _ width"]], is_reduced: bool
) -> Float[Tensor, "frames views patches width"]:
    """Of reduced media, the shorter ones are filled up; others are of one shape."""
    if is_reduced:
        longest = max(medium.shape[2] for medium in patches)
        return torch.cat([functional.pad(one, (0, 0, 0, longest - one.shape[2])) for one in patches])
    shapes = sorted({tuple(medium.shape[1:]) for medium in patches})
    if len(shapes) != 1:
        raise MismatchError(
            f"media of one batch have features of {shapes} (views, patches, width); batch each kind by itself"
        )
    return torch.cat(list(patches))
