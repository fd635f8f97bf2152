"""Position tables against the formula written as loops."""

import math

import pytest
import torch

from operators.positions import (
    encode_places,
    position_table,
    query_and_key_positions,
    resize_table,
    side_of,
)
from schemas.errors import ConfigError, MismatchError

CPU = torch.device("cpu")


def slow_table(places: list[float], width: int) -> torch.Tensor:
    """Row by row; columns fill the first half of the width."""
    quarter = width // 4

    def encode(place: float) -> list[float]:
        angles = [place / 10000 ** (index / quarter) for index in range(quarter)]
        return [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]

    return torch.tensor([encode(column) + encode(row) for row in places for column in places])


@pytest.mark.parametrize("places", [[0.0], [0.0, 1.0, 2.0], [-0.5, 11.5]])
def test_table_equals_loops(places: list[float]) -> None:
    torch.testing.assert_close(position_table(torch.tensor(places), 16), slow_table(places, 16))


def test_published_keys_of_one_query_are_all_alike() -> None:
    queries, keys = query_and_key_positions("published", 1, 6, 8, CPU)
    assert queries.shape == (1, 8)
    assert keys.shape == (36, 8)
    torch.testing.assert_close(keys, queries.expand(36, 8))


def test_published_keys_are_the_resized_table() -> None:
    queries, keys = query_and_key_positions("published", 2, 6, 8, CPU)
    torch.testing.assert_close(queries, slow_table([0.0, 1.0], 8))
    assert len(torch.unique(keys, dim=0)) == 36
    columns, rows = keys.reshape(6, 6, 8).split(4, dim=2)
    torch.testing.assert_close(columns, rows.transpose(0, 1))
    assert (columns[0, 1:, 0] > columns[0, :-1, 0]).all(), "the sine of the place grows from 0 to 1"


def test_native_keys_have_places_of_their_own() -> None:
    queries, keys = query_and_key_positions("native", 2, 6, 8, CPU)
    torch.testing.assert_close(keys, slow_table([0.0, 1.0, 2.0, 3.0, 4.0, 5.0], 8))
    torch.testing.assert_close(queries, slow_table([1.0, 4.0], 8))


def test_table_of_the_same_size_is_kept() -> None:
    table = torch.randn(9, 8)
    assert torch.equal(resize_table(table, 3), table)


def test_odd_width_and_ragged_grid_are_refused() -> None:
    with pytest.raises(ConfigError, match="even width"):
        encode_places(torch.zeros(2), 5)
    with pytest.raises(MismatchError, match="square"):
        side_of(12)
    assert side_of(576) == 24
