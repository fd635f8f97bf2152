"""Weights that others published, as files: LLaVA-Mini's whole models, LLaVA-1.5's, or its projector alone.

A folder holds safetensors or pickles of tensors, in one file or in several; pickles are read by torch with
`weights_only=True`, which builds tensors and nothing else. Each part of the model (projector, compressor,
pre-fusion, language model) is given whole or not at all, and what is not given stays as it is. Cost: all
tensors of the folder are mapped, and copied once.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from pipelines.train.model import OneTokenModel
from pipelines.train.published import IGNORED_PREFIXES, POSITION_KEY, check_positions, own_name
from pipelines.train.tensor_file import read_tensors
from schemas.errors import CorruptError, MismatchError, NotFoundError

PARTS = ("projector", "compressor", "prefusion", "llm")


def read_foreign(path: Path) -> dict[str, Tensor]:
    """The tensors of a file or a folder of weights.

    Raises:
        NotFoundError: there are none.
        CorruptError: a file cannot be read, or two of them hold the same tensor.
    """
    files = [path] if path.is_file() else _find_files(path)
    if not files:
        raise NotFoundError(
            f"no weights at {path}; name a folder with *.safetensors or *.bin, or such a file"
        )
    tensors: dict[str, Tensor] = {}
    for file in files:
        read = read_tensors(file) if file.suffix == ".safetensors" else _read_pickle(file)
        twice = tensors.keys() & read.keys()
        if twice:
            raise CorruptError(f"{file} holds {min(twice)} a second time; keep one of the files")
        tensors |= read
    return tensors


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


def _find_files(folder: Path) -> list[Path]:
    """Safetensors where there are any, else pickles; never both forms of the same weights."""
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))


def _read_pickle(file: Path) -> dict[str, Tensor]:
    try:
        loaded = cast(Any, torch.load)(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise CorruptError(f"{file} cannot be read as tensors: {error}") from error
    if not isinstance(loaded, dict) or not all(
        isinstance(tensor, Tensor) for tensor in cast("dict[str, object]", loaded).values()
    ):
        raise CorruptError(f"{file} is no table of tensors")
    return cast("dict[str, Tensor]", loaded)


def _shape(tensors: Mapping[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(tensors[name].shape) if name in tensors else None
