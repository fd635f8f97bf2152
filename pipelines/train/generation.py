"""Greedy answers from a batch without labels; placeholder signatures until the model stands."""

from operators.batch import ModelBatch
from pipelines.train.model import OneTokenModel


def generate_tokens(
    model: OneTokenModel, batch: ModelBatch, max_new_tokens: int, stop_ids: frozenset[int]
) -> list[list[int]]:
    """The most likely continuation of each row, up to and without the first stop id."""
    raise NotImplementedError
