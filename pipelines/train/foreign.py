"""Weights of others into a model: LLaVA-Mini's whole models, LLaVA-1.5's, or its projector alone.

Each part of the model (projector, compressor, pre-fusion, language model) is given whole or not at all, and
what is not given stays as it is; nothing is drawn anew. Cost: every tensor is copied once.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from pipelines.train.foreign_files import read_foreign
from pipelines.train.model import OneTokenModel
from pipelines.train.published import IGNORED_PREFIXES, POSITION_KEY, check_positions, own_name
from schemas.errors import MismatchError

PARTS = ("projector", "compressor", "prefusion", "llm")


def load_foreign(model: OneTokenModel, weights: Mapping[str, Tensor], where: str) -> tuple[str, ...]:
    """Copy published weights into the parts that they are of; returns those parts.

    Raises:
        MismatchError: a part lacks tensors, has others, or of other shapes; or nothing fits.
    """
    given = {
        own_name(key): tensor
        for key, tensor in weights.items()
        if key != POSITION_KEY and not key.startswith(IGNORED_PREFIXES) and "rotary_emb" not in key
    }
    own = model.state_dict()
    parts = tuple(part for part in PARTS if any(name.split(".")[0] == part for name in given))
    wanted = {name: tensor for name, tensor in own.items() if name.split(".")[0] in parts}
    wrong = [
        f"{name} is {_shape(given, name)} there and {_shape(wanted, name)} here"
        for name in sorted(given.keys() | wanted.keys())
        if _shape(given, name) != _shape(wanted, name)
    ]
    if wrong or not parts:
        raise MismatchError(
            f"the weights at {where} do not fit: {'; '.join(wrong[:3]) or 'no key is known'} "
            f"({len(wrong)} in all); compare stage, `model.llm`, grid and number of pre-fusion layers"
        )
    if POSITION_KEY in weights:
        check_positions(model, weights[POSITION_KEY])
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(given[name])
    return parts


def start_from_foreign(model: OneTokenModel, path: Path) -> tuple[str, ...]:
    """Begin with what others trained; pre-fusion that copies the language model copies the new one.

    Raises:
        MismatchError: the weights do not fit.
        NotFoundError: there are none.
        CorruptError: a file cannot be read.
    """
    parts = load_foreign(model, read_foreign(path), str(path))
    if "prefusion" not in parts:
        model.copy_to_prefusion()
    return parts


def _shape(tensors: Mapping[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(tensors[name].shape) if name in tensors else None
