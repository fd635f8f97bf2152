"""Named tensors in a safetensors file: the only weight format that is written."""

from pathlib import Path
from typing import Any, cast

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from schemas.errors import CorruptError


def write_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write tensors under their names; views are copied, since the format knows none.

    Transformers 4 reads no file that does not say which library's tensors it holds.
    """
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    cast(Any, safetensors.torch).save_file(whole, path, metadata={"format": "pt"})


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, on the CPU.

    Raises:
        CorruptError: the file is missing or cannot be read.
    """
    try:
        with cast(Any, safe_open)(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except (SafetensorError, OSError) as error:
        raise CorruptError(f"{path} cannot be read as safetensors: {error}; restore the file") from error
