"""Views of many items through the encoder in batches of one fixed size, filled across items, in item order.

Which views share a batch depends on the order of items alone, never on arrival, so the features are the same
whoever made them. The last batch is padded by the encoder. At most one batch of views is held, with the rows
of the items in it.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

Owner = TypeVar("Owner")

ViewArray = UInt8[np.ndarray, "_ height width 3"]
"""Any number of views; in a list of these every entry has its own."""

Encode = Callable[
    [UInt8[np.ndarray, "views height width 3"]],
    tuple[Float[Tensor, "views patches width"], Float[Tensor, "views width"] | None],
]
"""At most one batch of views, 8 bits a channel, to patch rows and class rows, if the encoder has such."""


@dataclass(frozen=True, slots=True)
class EncodedItem(Generic[Owner]):
    """The rows of one item's views, in the order of its views."""

    owner: Owner
    patches: Float[Tensor, "views patches width"]
    class_rows: Float[Tensor, "views width"] | None
    """None: the encoder has no class token."""


@dataclass(slots=True)
class _Waiting(Generic[Owner]):
    owner: Owner
    num_views: int
    patches: list[Tensor] = field(default_factory=list[Tensor])
    class_rows: list[Tensor] = field(default_factory=list[Tensor])
    num_encoded: int = 0

    def take(self, patches: Tensor, class_rows: Tensor | None) -> None:
        self.patches.append(patches)
        if class_rows is not None:
            self.class_rows.append(class_rows)
        self.num_encoded += len(patches)

    def finish(self) -> EncodedItem[Owner]:
        class_rows = torch.cat(self.class_rows) if self.class_rows else None
        return EncodedItem(self.owner, torch.cat(self.patches), class_rows)


def encode_items(
    items: Iterable[tuple[Owner, ViewArray]], encode: Encode, batch_size: int
) -> Iterator[EncodedItem[Owner]]:
    """Encode the views of items; items come out in the order in which they went in."""
    waiting: deque[_Waiting[Owner]] = deque()
    pieces: list[tuple[_Waiting[Owner], ViewArray]] = []
    room = batch_size
    for owner, views in items:
        item = _Waiting(owner, len(views))
        waiting.append(item)
        start = 0
        while start < len(views):
            piece = views[start : start + room]
            pieces.append((item, piece))
            start += len(piece)
            room -= len(piece)
            if room == 0:
                _encode_pieces(pieces, encode)
                yield from _finished(waiting)
                pieces, room = [], batch_size
    if pieces:
        _encode_pieces(pieces, encode)
    yield from _finished(waiting)


def _encode_pieces(pieces: list[tuple[_Waiting[Owner], ViewArray]], encode: Encode) -> None:
    patches, class_rows = encode(np.concatenate([views for _, views in pieces]))
    start = 0
    for item, views in pieces:
        end = start + len(views)
        item.take(patches[start:end], None if class_rows is None else class_rows[start:end])
        start = end


def _finished(waiting: deque[_Waiting[Owner]]) -> Iterator[EncodedItem[Owner]]:
    while waiting and waiting[0].num_encoded == waiting[0].num_views:
        yield waiting.popleft().finish()
