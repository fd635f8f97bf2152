"""The tensors of a folder of weights that others published, or of one file.

Folders hold more than one model's weights: LLaVA-1.5's has its projector a second time beside the shards,
trainers leave their arguments as a pickle. So an index of shards is followed where there is one, then come
the names that whole models go by, and only a folder without either is read in full. Pickles are read by torch
with `weights_only=True`, which builds tensors and nothing else. Cost: all tensors are mapped.
"""

from pathlib import Path
from typing import Any, Final, cast

import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor

from pipelines.train.tensor_file import read_tensors
from schemas.errors import CorruptError, NotFoundError

WHOLE: Final = ("model.safetensors", "pytorch_model.bin")
"""A model in one file; in several, `NAME.index.json` names them. The first that is there is read."""
PROJECTOR: Final = "mm_projector.bin"
"""LLaVA's projector alone."""


class ShardIndex(BaseModel):
    """Which file of a folder holds which tensor."""

    weight_map: dict[str, str]


def read_foreign(path: Path) -> dict[str, Tensor]:
    """The tensors of a file or a folder of weights.

    Raises:
        NotFoundError: there are none.
        CorruptError: a file is missing or cannot be read, or two of them hold the same tensor.
    """
    files = [path] if path.is_file() else find_weights(path)
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


def find_weights(folder: Path) -> list[Path]:
    """The files of one model in a folder, never two forms of the same weights.

    Raises:
        CorruptError: an index cannot be read, or names files that are not there.
    """
    for name in WHOLE:
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _read_index(index)
        if (folder / name).is_file():
            return [folder / name]
    if (folder / PROJECTOR).is_file():
        return [folder / PROJECTOR]
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))


def _read_index(index: Path) -> list[Path]:
    try:
        named = set(ShardIndex.model_validate_json(index.read_bytes()).weight_map.values())
    except (OSError, ValidationError) as error:
        raise CorruptError(f"{index} is no index of weights: {error}; restore the file") from error
    lacking = sorted(name for name in named if Path(name).name != name or not (index.parent / name).is_file())
    if lacking or not named:
        raise CorruptError(
            f"{index} names {', '.join(lacking[:3]) or 'no file'}, which is not in its folder "
            f"({len(lacking)} of {len(named)}); download the folder again"
        )
    return [index.parent / name for name in sorted(named)]


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
