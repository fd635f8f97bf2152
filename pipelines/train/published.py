"""The key names of the published LLaVA-Mini weights, both ways.

The published table of query positions is a fixed formula here: it is written on export, compared on loading.
Keys of a vision tower are passed over, since features come from the cache.
"""

from typing import Final

import torch
from torch import Tensor

from operators.compressor import Compressor
from operators.positions import position_table
from pipelines.train.model import OneTokenModel
from schemas.errors import MismatchError

PREFIXES: Final = (
    ("projector.", "model.mm_projector."),
    ("compressor.", "model.compressor."),
    ("prefusion.decoder.layers.", "model.prefusion_layers."),
    ("llm.", ""),
)
"""Ours and theirs, most specific first."""

POSITION_KEY: Final = "model.compressor.pos_embed"
IGNORED_PREFIXES: Final = ("model.vision_tower.",)


def published_name(name: str) -> str:
    """The published key of one of our parameters.

    Raises:
        MismatchError: the name belongs to no part of the model.
    """
    for ours, theirs in PREFIXES:
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    raise MismatchError(f"{name} has no published key; parts are {[ours for ours, _ in PREFIXES]}")


def own_name(key: str) -> str:
    """Our name of a published key; what belongs to no other part is the language model's."""
    for ours, theirs in PREFIXES:
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    raise AssertionError("the last prefix is empty and fits every key")


def published_weights(model: OneTokenModel) -> dict[str, Tensor]:
    """All weights of a model under their published keys, sharing its memory.

    Whether the published code would compute the same with them, `check_expressible` tells.
    """
    weights = {published_name(name): tensor for name, tensor in model.state_dict().items()}
    if isinstance(model.compressor, Compressor):
        weights[POSITION_KEY] = _query_positions(model).to(model.compressor.query)
    return weights


def check_positions(model: OneTokenModel, table: Tensor) -> None:
    """Raises `MismatchError` where a published table of query positions is not the model's."""
    own = _query_positions(model)
    if table.shape != own.shape or not torch.allclose(table.float().cpu(), own, atol=1e-2):
        raise MismatchError(f"{POSITION_KEY} is not the 2D sine-cosine table of this grid and width")


def _query_positions(model: OneTokenModel) -> Tensor:
    return position_table(torch.arange(float(model.shape.grid)), model.shape.encoder_width)
