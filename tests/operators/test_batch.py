"""A batch whose parts disagree is refused where it is made."""

from dataclasses import replace

import pytest
import torch

from operators.batch import IGNORED_LABEL, MEDIUM_TOKEN, ModelBatch
from schemas.errors import MismatchError

N = IGNORED_LABEL


def make_batch() -> ModelBatch:
    """An example with a picture and a video of two frames, and one of text."""
    token_ids = torch.tensor([[7, MEDIUM_TOKEN, 8, MEDIUM_TOKEN, 9], [5, 6, 7, 0, 0]])
    labels = torch.tensor([[N, N, N, N, 9], [N, 6, 7, N, N]])
    attended = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    fused = (labels == N) & attended & (token_ids != MEDIUM_TOKEN)
    return ModelBatch(
        token_ids=token_ids,
        labels=labels,
        attention_mask=attended,
        fuse_mask=fused,
        frames=torch.zeros(3, 1, 4, 2),
        frames_per_medium=(1, 2),
        media_per_example=(2, 0),
        example_ids=("a", "b"),
    )


def with_cell(rows: torch.Tensor, row: int, column: int, value: int | bool) -> torch.Tensor:
    changed = rows.clone()
    changed[row, column] = value
    return changed


def test_frames_are_counted_per_example() -> None:
    assert make_batch().frames_per_example == (3, 0)


def test_moving_casts_features_only() -> None:
    moved = make_batch().to("cpu", torch.bfloat16)
    assert moved.frames is not None
    assert moved.frames.dtype == torch.bfloat16
    assert moved.token_ids.dtype == torch.int64
    assert moved.fuse_mask.dtype == torch.bool
    assert moved.example_ids == ("a", "b")


def test_counts_are_checked_on_a_device_too() -> None:
    batch = make_batch().to("meta")
    assert batch.token_ids.device.type == "meta"
    with pytest.raises(MismatchError, match="frames"):
        replace(batch, frames_per_medium=(1, 1))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"example_ids": ("a",)}, "one entry per row"),
        ({"media_per_example": (2,)}, "one entry per row"),
        ({"media_per_example": (1, 0)}, "2 media, but|1 media, but"),
        ({"frames_per_medium": (3,)}, "2 media, but"),
        ({"frames_per_medium": (0, 3)}, "without frames"),
        ({"frames_per_medium": (2, 2)}, "4 frames"),
        ({"frames": None}, "features of 0"),
        ({"media_per_example": (1, 1)}, "medium tokens"),
        ({"attention_mask": with_cell(make_batch().attention_mask, 1, 0, False)}, "right-padded"),
        ({"fuse_mask": with_cell(make_batch().fuse_mask, 1, 4, True)}, "padding or a medium"),
        ({"fuse_mask": with_cell(make_batch().fuse_mask, 0, 1, True)}, "padding or a medium"),
        ({"labels": with_cell(make_batch().labels, 1, 4, 3)}, "padding or a medium"),
        ({"labels": with_cell(make_batch().labels, 0, 1, 3)}, "padding or a medium"),
        ({"fuse_mask": with_cell(make_batch().fuse_mask, 1, 1, True)}, "both fused and learned"),
        (
            {"token_ids": with_cell(make_batch().token_ids, 1, 4, MEDIUM_TOKEN), "media_per_example": (2, 0)},
            "medium",
        ),
    ],
)
def test_disagreement_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(MismatchError, match=words):
        replace(make_batch(), **changes)
