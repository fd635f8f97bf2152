"""Frames and an instruction in; a few compressed tokens a frame and the fused instruction out.

Each frame is a row of its own: [patches of all its views | compressed | instruction of its example], causal.
So what is compressed depends on the frame alone, and only the instruction reads everything. All frames of a
batch are rows of one batch; chunks bound the memory of long videos and change no number. The fused
instruction of an example is the mean over its frames, taken in fp32. Where nothing is learned, frames pass
one chunk after the other, and only their compressed tokens are kept.

A baseline reduces in the compressor's place. Where it keeps what it is given (all patches, or tokens that
were reduced before), these are read once: [tokens | instruction]. Frames of fewer tokens than the longest
then have theirs and their instruction first, and the padding last, where causal layers never look.
"""

from collections.abc import Callable
from functools import partial
from itertools import accumulate
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from operators.view_grid import order_patches
from pipelines.train.recompute import recompute
from pipelines.train.shape import ActivationPlan

Compress = Callable[
    [Float[Tensor, "frames views patches encoder_width"]], Float[Tensor, "frames queries encoder_width"]
]


class FusedFrames(NamedTuple):
    """What pre-fusion hands to the language model, frame by frame."""

    compressed: Float[Tensor, "frames queries width"]
    instruction: Float[Tensor, "frames longest width"]


class FrameFusion(NamedTuple):
    """The modules that a frame passes through; `prefusion` is None where a model goes without."""

    projector: nn.Module
    compress: Compress | None
    """Patches to tokens; None: they are the tokens."""
    prefusion: nn.Module | None

    def fuse(
        self,
        views: Float[Tensor, "frames views patches encoder_width"],
        instruction: Float[Tensor, "frames longest width"],
        counts: Int64[Tensor, " frames"] | None = None,
    ) -> FusedFrames:
        """Compress and fuse some frames at once; `counts` are their numbers of tokens, where these differ."""
        if self.compress is None:
            return self._fuse_tokens(self.projector(order_patches(views)), instruction, counts)
        compressed: Tensor = self.projector(self.compress(views))
        if self.prefusion is None:
            return FusedFrames(compressed, instruction)
        patches: Tensor = self.projector(order_patches(views))
        fused: Tensor = self.prefusion(torch.cat([patches, compressed, instruction], dim=1))
        first = patches.shape[1]
        last = first + compressed.shape[1]
        return FusedFrames(fused[:, first:last], fused[:, last:])

    def _fuse_tokens(
        self,
        tokens: Float[Tensor, "frames most width"],
        instruction: Float[Tensor, "frames longest width"],
        counts: Int64[Tensor, " frames"] | None,
    ) -> FusedFrames:
        """Tokens, their padding moved behind the instruction for as long as they are fused."""
        if self.prefusion is None:
            return FusedFrames(tokens, instruction)
        most, length = tokens.shape[1], instruction.shape[1]
        rows = torch.cat([tokens, instruction], dim=1)
        if counts is None:
            fused: Tensor = self.prefusion(rows)
            return FusedFrames(fused[:, :most], fused[:, most:])
        packed = rows.gather(1, _pack_right(counts, most, length)[..., None].expand_as(rows))
        fused = self.prefusion(packed)
        places = counts[:, None] + torch.arange(length, device=counts.device)
        own = fused.gather(1, places[..., None].expand(-1, -1, fused.shape[2]))
        return FusedFrames(fused[:, :most], own)

    def fuse_in_chunks(
        self,
        views: Float[Tensor, "frames views patches encoder_width"],
        instruction: Float[Tensor, "frames longest width"],
        plan: ActivationPlan,
        counts: Int64[Tensor, " frames"] | None = None,
    ) -> FusedFrames:
        """The same, `plan.frames_per_chunk` frames at a time."""
        size = plan.frames_per_chunk
        if size is None:
            return self.fuse(views, instruction, counts)
        call = partial(recompute, self.fuse) if plan.checkpoint else self.fuse
        fused = [
            call(
                views[first : first + size],
                instruction[first : first + size],
                None if counts is None else counts[first : first + size],
            )
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
        token_counts: Int64[Tensor, " frames"] | None = None,
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
            own = None if token_counts is None else token_counts[first : first + size]
            fused = self.fuse(views[first : first + size].to(instructions), instructions[theirs], own)
            compressed.append(fused.compressed)
            sums.index_add_(0, theirs, fused.instruction.to(precise))
        counts = torch.bincount(owners, minlength=len(sums))[:, None, None]
        return torch.cat(compressed), (sums / counts).to(instructions.dtype)


def _pack_right(counts: Int64[Tensor, " frames"], most: int, length: int) -> Int64[Tensor, "frames row"]:
    """Where the entries of [own tokens | instruction | padding] stand in [tokens, padded | instruction]."""
    places = torch.arange(most + length, device=counts.device).expand(counts.shape[0], -1)
    own = counts[:, None]
    moved = torch.where(places < own + length, places + most - own, places - length)
    return torch.where(places < own, places, moved)


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
