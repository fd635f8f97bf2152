"""How the views of a frame are laid out as one sequence of patches.

A frame is one view, or four crops row by row and then the whole picture. The crops are read as one picture
of twice the side, the order that the published weights were trained with; pre-fusion is causal, so it
matters.
"""

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from operators.positions import side_of
from operators.views import VIEWS_PER_PICTURE
from schemas.errors import MismatchError

NUM_VIEWS_HD: Final = VIEWS_PER_PICTURE["hd4"]
"""Four crops, row by row, then the whole picture."""
NUM_CROPS: Final = NUM_VIEWS_HD - 1


def join_crops(crops: Float[Tensor, "frames 4 patches width"]) -> Float[Tensor, "frames joined width"]:
    """Four crops, given row by row, as one grid of twice the side, its patches row by row."""
    frames, _, patches, width = crops.shape
    side = side_of(patches)
    grid = crops.reshape(frames, 2, 2, side, side, width)
    return grid.permute(0, 1, 3, 2, 4, 5).reshape(frames, 4 * patches, width)


def order_patches(
    views: Float[Tensor, "frames views patches width"],
) -> Float[Tensor, "frames all_patches width"]:
    """All patches of a frame as pre-fusion reads them: the joined crops, then the whole picture.

    Raises:
        MismatchError: a frame has neither 1 nor 5 views.
    """
    if views.shape[1] == 1:
        return views[:, 0]
    _require_hd(views.shape[1])
    return torch.cat([join_crops(views[:, :NUM_CROPS]), views[:, NUM_CROPS]], dim=1)


def patches_to_compress(
    views: Float[Tensor, "frames views patches width"],
) -> Float[Tensor, "frames grid_patches width"]:
    """The patches that the queries look at: those of the only view, or of the joined crops.

    Raises:
        MismatchError: a frame has neither 1 nor 5 views.
    """
    if views.shape[1] == 1:
        return views[:, 0]
    _require_hd(views.shape[1])
    return join_crops(views[:, :NUM_CROPS])


def _require_hd(num_views: int) -> None:
    if num_views != NUM_VIEWS_HD:
        raise MismatchError(f"a frame has {num_views} views; give 1, or 4 crops and the whole picture")
