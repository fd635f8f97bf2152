"""A micro-batch as far as memory goes, and a batch of that shape to take a step with.

In every example all tokens that are learned stand last. Instructions are as long as the longest of the batch
wherever they are fused, so one long instruction among long answers is the most that a batch can be: where
both cannot stand in one example, the first one has the instruction, and the others the answers.
"""

import contextlib
from dataclasses import dataclass

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from operators.batch import IGNORED_LABEL, MEDIUM_TOKEN, ModelBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class StepShape:
    """A micro-batch, as far as memory goes."""

    num_examples: int
    num_tokens: int
    """Text tokens of each example."""
    num_labels: int
    """Those of an example that are learned, at most."""
    num_fused: int | None = None
    """Those of an example that are fused, at most; None: all that are not learned."""
    num_frames: int = 1
    """Of each example; 0: text only."""
    views_per_frame: int = 1
    num_patches: int = 576
    encoder_width: int = 1024
    is_reduced: bool = False
    """Frames hold what a reducer left of all views, in one row."""

    @property
    def longest_instruction(self) -> int:
        """Tokens that are fused, of the example that has the most: at least one of its tokens is learned."""
        if self.num_fused is None:
            return self.num_tokens - self.num_labels
        return min(self.num_fused, self.num_tokens - 1)

    @property
    def total_frames(self) -> int:
        """Of all examples."""
        return self.num_examples * self.num_frames


def make_batch(step: StepShape, mode: FakeTensorMode | None = None) -> ModelBatch:
    """A batch of a shape; texts and frames are zeros, the frames fake where a mode is given."""
    num_media = min(step.num_frames, 1)
    token_ids = torch.zeros(step.num_examples, step.num_tokens + num_media, dtype=torch.int64)
    labels = torch.full_like(token_ids, IGNORED_LABEL)
    fuse_mask = torch.zeros_like(token_ids, dtype=torch.bool)
    for row in range(step.num_examples):
        num_fused, num_labels = _share_tokens(step, is_first=row == 0)
        fuse_mask[row, num_media : num_media + num_fused] = True
        labels[row, token_ids.shape[1] - num_labels :] = 0
    if num_media:
        token_ids[:, 0] = MEDIUM_TOKEN
    with mode or contextlib.nullcontext():
        frames = torch.zeros(_frames_shape(step), dtype=torch.float16) if num_media else None
    return ModelBatch(
        token_ids=token_ids,
        labels=labels,
        attention_mask=torch.ones_like(fuse_mask),
        fuse_mask=fuse_mask,
        frames=frames,
        frames_per_medium=(step.num_frames,) * (step.num_examples * num_media),
        media_per_example=(num_media,) * step.num_examples,
        example_ids=tuple(f"example {index}" for index in range(step.num_examples)),
        frame_tokens=_frame_tokens(step) if num_media and step.is_reduced else None,
    )


def _share_tokens(step: StepShape, *, is_first: bool) -> tuple[int, int]:
    """Tokens of an example that are fused, and that are learned."""
    if is_first:
        num_fused = step.longest_instruction
        return num_fused, min(step.num_labels, step.num_tokens - num_fused)
    num_labels = min(step.num_labels, step.num_tokens)
    return min(step.longest_instruction, step.num_tokens - num_labels), num_labels


def _frames_shape(step: StepShape) -> tuple[int, int, int, int]:
    if step.is_reduced:
        return step.total_frames, 1, step.views_per_frame * step.num_patches, step.encoder_width
    return step.total_frames, step.views_per_frame, step.num_patches, step.encoder_width


def _frame_tokens(step: StepShape) -> tuple[int, ...]:
    num_frames, _, num_tokens, _ = _frames_shape(step)
    return (num_tokens,) * num_frames
