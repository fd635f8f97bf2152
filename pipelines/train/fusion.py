"""Frames and an instruction in; a few compressed tokens a frame and the fused instruction out.

Each frame is a row of its own: [patches of all its views | compressed | instruction of its example], causal.
So what is compressed depends on the frame alone, and only the instruction reads everything. All frames of a
batch are rows of one batch; chunks bound the memory of long videos and change no number. The fused
instruction of an example is the mean over its frames, taken in fp32. Where nothing is learned, frames pass
one chunk after the other, and only their compressed tokens are kept.
"""

from functools import partial
from itertools import accumulate
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from operators.view_grid import order_patches
from pipelines.train.recompute import recompute
from pipelines.train.shape import ActivationPlan


class FusedFrames(NamedTuple):
    """What pre-fusion hands to the language model, frame by frame."""

    compressed: Float[Tensor, "frames queries width"]
    instruction: Float[Tensor, "frames longest width"]


class FrameFusion(NamedTuple):
    """The modules that a frame passes through; `prefusion` is None where a model goes without."""

    projector: nn.Module
    compressor: nn.Module
    prefusion: nn.Module | None

    def fuse(
        self,
        views: Float[Tensor, "frames views patches encoder_width"],
        instruction: Float[Tensor, "frames longest width"],
    ) -> FusedFrames:
        """Compress and fuse some frames at once."""
        compressed: Tensor = self.projector(self.compressor(views))
        if self.prefusion is None:
            return FusedFrames(compressed, instruction)
        patches: Tensor = self.projector(order_patches(views))
        fused: Tensor = self.prefusion(torch.cat([patches, compressed, instruction], dim=1))
        first = patches.shape[1]
        last = first + compressed.shape[1]
        return FusedFrames(fused[:, first:last], fused[:, last:])

    def fuse_in_chunks(
        self,
        views: Float[Tensor, "frames views patches encoder_width"],
        instruction: Float[Tensor, "frames longest width"],
        plan: ActivationPlan,
    ) -> FusedFrames:
        """The same, `plan.frames_per_chunk` frames at a time."""
        size = plan.frames_per_chunk
        if size is None:
            return self.fuse(views, instruction)
        call = partial(recompute, self.fuse) if plan.checkpoint else self.fuse
        fused = [
            call(views[first : first + size], instruction[first : first + size])
            for first in range(0, views.shape[0], size)
        ]
        return FusedFrames(
            torch.cat([part.compressed for part in fused]), torch.cat([part.instruction for part in fused])
        )

    def fuse_by_and_by(
        self,
        views: Float[Tensor, "frames views patches encoder_width"],
        instructions: Float[Tensor, "examples longest width"],
        owners: Int64[Tensor, " frames"],
        size: int,
    ) -> tuple[Float[Tensor, "frames queries width"], Float[Tensor, "examples longest width"]]:
        """Compressed tokens of all frames and each example's mean instruction, without gradients.

        What is held of `size` frames at a time is everything, of the others their compressed tokens; `views`
        may stand in another memory. Equal to the mean over all frames up to rounding.
        """
        precise = torch.promote_types(instructions.dtype, torch.float32)
        sums = torch.zeros_like(instructions, dtype=precise)
        compressed: list[Tensor] = []
        for first in range(0, views.shape[0], size):
            theirs = owners[first : first + size]
            fused = self.fuse(views[first : first + size].to(instructions), instructions[theirs])
            compressed.append(fused.compressed)
            sums.index_add_(0, theirs, fused.instruction.to(precise))
        counts = torch.bincount(owners, minlength=len(sums))[:, None, None]
        return torch.cat(compressed), (sums / counts).to(instructions.dtype)


def average_frames(
    instruction: Float[Tensor, "frames longest width"], frames_per_example: tuple[int, ...]
) -> Float[Tensor, "examples longest width"]:
    """The mean over each example's frames, in fp32."""
    ends = accumulate(frames_per_example)
    precise = torch.promote_types(instruction.dtype, torch.float32)
    means = [
        instruction[end - num_frames : end].to(precise).mean(dim=0)
        for end, num_frames in zip(ends, frames_per_example, strict=True)
    ]
    return torch.stack(means).to(instruction.dtype)
