"""Fixed-size batches across items: every row lands with its own item, in order."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipelines.featurize.batches import encode_items

SIZE_PX = 2


def number_views(counts: list[int]) -> list[tuple[str, np.ndarray]]:
    """Items whose views carry a running number in every pixel."""
    items: list[tuple[str, np.ndarray]] = []
    start = 0
    for index, count in enumerate(counts):
        numbers = np.arange(start, start + count, dtype=np.uint8)
        items.append(
            (f"item-{index}", np.broadcast_to(numbers[:, None, None, None], (count, SIZE_PX, SIZE_PX, 3)))
        )
        start += count
    return items


@given(st.lists(st.integers(1, 9), max_size=12), st.integers(1, 8))
def test_rows_come_home_in_order(counts: list[int], batch_size: int) -> None:
    batch_sizes: list[int] = []

    def encode(views: np.ndarray) -> tuple[Tensor, Tensor]:
        batch_sizes.append(len(views))
        numbers = torch.from_numpy(views[:, 0, 0, 0].astype(np.float32))
        return numbers[:, None, None].repeat(1, 3, 2), numbers[:, None].repeat(1, 2) + 0.5

    encoded = list(encode_items(number_views(counts), encode, batch_size))

    assert [item.owner for item in encoded] == [f"item-{index}" for index in range(len(counts))]
    assert [len(item.patches) for item in encoded] == counts
    numbers = [value for item in encoded for value in item.patches[:, 0, 0].tolist()]
    assert numbers == list(range(sum(counts)))
    assert [value for item in encoded for value in item.class_rows[:, 0].tolist()] == [
        n + 0.5 for n in numbers
    ]
    assert all(size == batch_size for size in batch_sizes[:-1])
    assert sum(batch_sizes) == sum(counts)


def test_items_are_given_out_before_the_next_are_asked_for() -> None:
    asked: list[int] = []

    def items():
        for index, (owner, views) in enumerate(number_views([2, 2, 2])):
            asked.append(index)
            yield owner, views

    def encode(views: np.ndarray) -> tuple[Tensor, Tensor]:
        return torch.zeros(len(views), 3, 2), torch.zeros(len(views), 2)

    stream = encode_items(items(), encode, batch_size=2)
    next(stream)
    assert asked == [0]
