"""Where every token of a batch goes: index arithmetic, worked out on the CPU before anything is computed.

The model gathers its input rows from one pool, [text | vision | zero], so that splicing is one indexed copy
whatever the number of media in an example. All layouts are right-padded, or join the examples in one row
without padding, which is why attention needs no mask. Laid out while the batch still stands on the CPU, a
step waits for no device; what is laid out later costs a copy of the token rows back.
"""

from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from operators.batch import IGNORED_LABEL, MEDIUM_TOKEN, ModelBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class FusionLayout:
    """The instruction tokens of the examples that have media; places count along the flattened token rows."""

    places: Int64[Tensor, "examples longest"]
    """The instruction of each example, in order; padding repeats place 0 and is never read."""
    kept: Int64[Tensor, " fused"]
    """Which entries of the flattened `places` are no padding."""
    frames_per_example: tuple[int, ...]
    owners: Int64[Tensor, " frames"]
    """The example of each frame, counted among those with media."""

    @property
    def targets(self) -> Int64[Tensor, " fused"]:
        """The places that receive fused tokens."""
        return self.places.flatten()[self.kept]

    def to(self, device: torch.device) -> "FusionLayout":
        """The same with its indexes on a device."""
        return replace(
            self,
            places=self.places.to(device),
            kept=self.kept.to(device),
            owners=self.owners.to(device),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceLayout:
    """The rows that the language model reads, and those whose prediction is learned."""

    sources: Int64[Tensor, "rows length"]
    """Entry of the pool [text | vision | zero] for each token: a row for each example, or one for all."""
    lengths: tuple[int, ...]
    """Of the examples."""
    positions: Int64[Tensor, "1 length"] | None
    """Of the tokens within their examples, where these share one row."""
    label_rows: Int64[Tensor, " labels"]
    """Entries of the flattened output that predict a learned token."""
    label_targets: Int64[Tensor, " labels"]
    label_examples: Int64[Tensor, " labels"]
    labels_per_example: tuple[int, ...]

    def to(self, device: torch.device) -> "SequenceLayout":
        """The same with its indexes on a device."""
        return replace(
            self,
            sources=self.sources.to(device),
            positions=None if self.positions is None else self.positions.to(device),
            label_rows=self.label_rows.to(device),
            label_targets=self.label_targets.to(device),
            label_examples=self.label_examples.to(device),
        )


@dataclass(frozen=True, slots=True)
class BatchLayout:
    """Both layouts of a batch; without media nothing is fused."""

    fusion: FusionLayout | None
    sequence: SequenceLayout

    def to(self, device: torch.device) -> "BatchLayout":
        """The same with its indexes on a device."""
        return BatchLayout(self.fusion and self.fusion.to(device), self.sequence.to(device))


def plan_batch(batch: ModelBatch, tokens_per_frame: int, *, fuses: bool, packed: bool = False) -> BatchLayout:
    """Lay out a batch whose frames become `tokens_per_frame` tokens, and `fuses` its instructions or not.

    Where the batch counts its frames' own tokens, `tokens_per_frame` is the length of the longest. `packed`
    examples share one row of the language model; they are fused each for itself all the same.
    """
    fusion = plan_fusion(batch) if fuses and batch.frames_per_medium else None
    sequence = plan_sequence(batch, tokens_per_frame)
    return BatchLayout(fusion, pack_sequence(sequence) if packed else sequence)


def plan_fusion(batch: ModelBatch) -> FusionLayout:
    """The text side of pre-fusion; examples without media are left out, so nothing is fused for them."""
    fuse_mask = batch.fuse_mask.cpu()
    length = fuse_mask.shape[1]
    frames = batch.frames_per_example
    rows = [
        fuse_mask[example].nonzero().flatten() + example * length
        for example, num_frames in enumerate(frames)
        if num_frames
    ]
    places = pad_sequence(rows, batch_first=True, padding_value=-1)
    counts = tuple(num_frames for num_frames in frames if num_frames)
    return FusionLayout(
        places=places.clamp(min=0),
        kept=(places.flatten() >= 0).nonzero().flatten(),
        frames_per_example=counts,
        owners=torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)),
    )


def plan_sequence(batch: ModelBatch, tokens_per_frame: int) -> SequenceLayout:
    """The language model's rows, with `tokens_per_frame` vision tokens for each frame of a medium, or as many
    of them as the frame has.
    """
    token_ids, labels = batch.token_ids.cpu(), batch.labels.cpu()
    lengths = [int(count) for count in batch.attention_mask.sum(dim=1).cpu()]
    vision = iter(place_vision(batch, token_ids.numel(), tokens_per_frame))
    next_vision = token_ids.numel() + sum(batch.frames_per_medium) * tokens_per_frame
    rows = [
        splice_row(
            token_ids[example, :length],
            example * token_ids.shape[1],
            [next(vision) for _ in range(batch.media_per_example[example])],
        )
        for example, length in enumerate(lengths)
    ]
    sources = pad_sequence(rows, batch_first=True, padding_value=next_vision)
    no_labels = torch.full((next_vision + 1 - labels.numel(),), IGNORED_LABEL)
    return _with_labels(sources, torch.cat([labels.flatten(), no_labels])[sources], tuple(map(len, rows)))


def pack_sequence(padded: SequenceLayout) -> SequenceLayout:
    """The same examples in one row, one after another, without their padding."""
    lengths = torch.tensor(padded.lengths)
    longest = padded.sources.shape[1]
    places = torch.arange(longest).expand(len(padded.lengths), -1)
    is_token = places < lengths[:, None]
    moved = lengths.cumsum(0) - lengths - torch.arange(len(padded.lengths)) * longest
    return replace(
        padded,
        sources=padded.sources[is_token][None],
        positions=places[is_token][None],
        label_rows=padded.label_rows + moved[padded.label_examples],
    )


def place_vision(batch: ModelBatch, first: int, longest: int) -> list[Int64[Tensor, " _"]]:
    """Pool entries of each medium's vision tokens; a frame has room for `longest`, and fills some of it."""
    own = batch.frame_tokens or (longest,) * sum(batch.frames_per_medium)
    frames = [
        torch.arange(first + frame * longest, first + frame * longest + count)
        for frame, count in enumerate(own)
    ]
    ends = accumulate(batch.frames_per_medium)
    return [
        torch.cat(frames[end - num_frames : end])
        for end, num_frames in zip(ends, batch.frames_per_medium, strict=True)
    ]


def splice_row(
    token_ids: Int64[Tensor, " length"], first_text: int, vision: list[Int64[Tensor, " _"]]
) -> Int64[Tensor, " spliced"]:
    """Pool entries of one example: its text, with a medium's vision entries in place of each medium token."""
    pieces: list[Tensor] = []
    start = 0
    for place, entries in zip(_places_of_media(token_ids), vision, strict=True):
        pieces += [torch.arange(first_text + start, first_text + place), entries]
        start = place + 1
    pieces.append(torch.arange(first_text + start, first_text + token_ids.shape[0]))
    return torch.cat(pieces)


def _places_of_media(token_ids: Int64[Tensor, " length"]) -> list[int]:
    return [int(place) for place in (token_ids == MEDIUM_TOKEN).nonzero().flatten()]


def _with_labels(
    sources: Int64[Tensor, "batch length"], labels: Int64[Tensor, "batch length"], lengths: tuple[int, ...]
) -> SequenceLayout:
    """A row predicts the token after it, so the first token of an example is never learned."""
    examples, rows = (labels[:, 1:] != IGNORED_LABEL).nonzero(as_tuple=True)
    return SequenceLayout(
        sources=sources,
        lengths=lengths,
        positions=None,
        label_rows=examples * sources.shape[1] + rows,
        label_targets=labels[examples, rows + 1],
        label_examples=examples,
        labels_per_example=tuple(
            int(count) for count in torch.bincount(examples, minlength=sources.shape[0])
        ),
    )
