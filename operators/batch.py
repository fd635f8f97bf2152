"""The seam between data and model: one example's features, and the batch a model takes.

A batch carries roles as masks, worked out where the prompt is written, so that the model never guesses them
from token ids or labels. Media are listed in the order in which their tokens stand, example by example; every
count is checked on construction, since a count that is off by one would give one example's picture to
another. Checks that read tensor values run on the CPU only: moving a batch to a device costs no
synchronization.
"""

from dataclasses import dataclass, replace
from typing import Final

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from operators.stored import StoredFeatures
from schemas.errors import MismatchError
from schemas.record import Turn

MEDIUM_TOKEN: Final = -200
"""Stands in `token_ids` where a medium stands; the value that LLaVA uses, and no vocabulary does."""

IGNORED_LABEL: Final = -100
"""Marks in `labels` a token that is not learned."""


@dataclass(frozen=True, slots=True)
class MediumFeatures:
    """What the encoder gave for one medium.

    An image is 1 frame of 1 view, or of 5 (four crops row by row, then the whole picture); a video is F
    frames of 1.
    """

    patches: Float[Tensor, "frames views patches width"]
    class_rows: Float[Tensor, "frames views width"] | None = None
    """Of the views, for reducers that ask what the class token looks at."""
    counts: tuple[int, ...] | None = None
    """Tokens of each frame, where they were reduced: one view of so many, zeros behind them. None: all."""

    def check_whole(self) -> None:
        """Refuse what was reduced already.

        Raises:
            MismatchError: it was.
        """
        if self.counts is not None:
            raise MismatchError(
                "these features were reduced before they were stored, and cannot be reduced again; use a "
                "cache of all patches, or leave the reducer out"
            )


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """One conversation and the features of its media, in the order of their placeholders."""

    example_id: str
    source: str
    turns: tuple[Turn, ...]
    media: tuple[MediumFeatures | StoredFeatures, ...]
    """As they are, or still as their codec wrote them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelBatch:
    """Right-padded token rows, and all frames of all media of the batch in order.

    `token_ids` holds one `MEDIUM_TOKEN` per medium. `fuse_mask` marks the instruction tokens (system prompt
    and human turns). `labels` holds the token's own id where it is learned: the model shifts. `frames` is
    None when no example has a medium; views are the same in number throughout a batch. Features that are
    still encoded stand in `stored` instead: `to` decodes them where it moves the batch. Where features were
    reduced, `frame_tokens` says how many tokens each frame has; what stands behind them is never read.

    Raises:
        MismatchError: two parts of the batch disagree.
    """

    token_ids: Int64[Tensor, "batch length"]
    labels: Int64[Tensor, "batch length"]
    attention_mask: Bool[Tensor, "batch length"]
    fuse_mask: Bool[Tensor, "batch length"]
    frames: Float[Tensor, "frames views patches width"] | None
    frames_per_medium: tuple[int, ...]
    media_per_example: tuple[int, ...]
    example_ids: tuple[str, ...]
    stored: StoredFeatures | None = None
    frame_tokens: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        self._check_counts()
        if self.token_ids.device.type == "cpu":
            self._check_masks()

    @property
    def frames_per_example(self) -> tuple[int, ...]:
        """Frames of all media of each example; 0 for text only."""
        counts = iter(self.frames_per_medium)
        return tuple(sum(next(counts) for _ in range(num_media)) for num_media in self.media_per_example)

    def to(
        self, device: torch.device | str, dtype: torch.dtype | None = None, *, frames_stay: bool = False
    ) -> "ModelBatch":
        """Move to a device, encoded features decoded there; `dtype` is for the frames alone.

        Frames that `frames_stay` leaves where they are can be more than a device holds.
        """
        frames = self.frames if self.stored is None else self.stored.decode(torch.device(device))
        target = frames.device if frames_stay and frames is not None else device
        return replace(
            self,
            token_ids=self.token_ids.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            attention_mask=self.attention_mask.to(device, non_blocking=True),
            fuse_mask=self.fuse_mask.to(device, non_blocking=True),
            frames=None if frames is None else frames.to(target, dtype, non_blocking=True),
            stored=None,
        )

    def _check_counts(self) -> None:
        batch = self.token_ids.shape[0]
        shapes = {
            tuple(rows.shape) for rows in (self.token_ids, self.labels, self.attention_mask, self.fuse_mask)
        }
        if len(shapes) != 1:
            raise MismatchError(
                f"the token rows of a batch differ in shape: {sorted(shapes)}; pad all to one length"
            )
        if len(self.media_per_example) != batch or len(self.example_ids) != batch:
            raise MismatchError(
                f"a batch of {batch} rows names {len(self.example_ids)} examples and counts media for "
                f"{len(self.media_per_example)}; give one entry per row"
            )
        if sum(self.media_per_example) != len(self.frames_per_medium):
            raise MismatchError(
                f"examples hold {sum(self.media_per_example)} media, but frames are counted for "
                f"{len(self.frames_per_medium)}; list frames_per_medium in the order of the placeholders"
            )
        if any(count < 1 for count in self.frames_per_medium):
            raise MismatchError(
                f"a medium without frames in {self.frames_per_medium}; reject it before batching"
            )
        if self.frames is not None and self.stored is not None:
            raise MismatchError("a batch holds features both decoded and stored; give one of them")
        num_frames = 0 if self.frames is None else self.frames.shape[0]
        if self.stored is not None:
            num_frames = self.stored.num_frames
        if sum(self.frames_per_medium) != num_frames:
            raise MismatchError(
                f"media hold {sum(self.frames_per_medium)} frames, but the batch has features of {num_frames}"
            )
        self._check_frame_tokens(num_frames)

    def _check_frame_tokens(self, num_frames: int) -> None:
        if self.frame_tokens is None:
            return
        if len(self.frame_tokens) != num_frames:
            raise MismatchError(f"{num_frames} frames come with {len(self.frame_tokens)} counts of tokens")
        shape = None if self.frames is None else self.frames.shape
        if shape and (shape[1] != 1 or max(self.frame_tokens) > shape[2]):
            raise MismatchError(
                f"reduced frames are {tuple(shape)} and hold up to {max(self.frame_tokens)} tokens; give one "
                "view as long as the longest"
            )

    def _check_masks(self) -> None:
        if bool((self.attention_mask[:, 1:] & ~self.attention_mask[:, :-1]).any()):
            raise MismatchError("a row of the batch is not right-padded; put padding after the last token")
        is_medium = self.token_ids == MEDIUM_TOKEN
        found = tuple(int(count) for count in is_medium.sum(dim=1))
        if found != self.media_per_example:
            raise MismatchError(f"rows hold {found} medium tokens for {self.media_per_example} media")
        usable = self.attention_mask & ~is_medium
        is_learned = self.labels != IGNORED_LABEL
        if bool((is_medium & ~self.attention_mask).any()):
            raise MismatchError("a medium token stands in the padding; unmask it")
        if bool(((self.fuse_mask | is_learned) & ~usable).any()):
            raise MismatchError("padding or a medium is marked as fused or learned; mark text tokens only")
        if bool((self.fuse_mask & is_learned).any()):
            raise MismatchError(
                "a token is both fused and learned: the answer would reach the picture's features"
            )
