"""Codecs by name. A further one is a class with the four members of `Codec` and a line in `CODECS`."""

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Float16
from torch import Tensor

from operators.codec.fp16 import Fp16Codec
from operators.codec.int8 import Int8Codec
from operators.codec.interface import Buffer, Codec
from schemas.errors import MismatchError

CODECS: Final[dict[str, Codec]] = {"fp16": Fp16Codec(), "int8": Int8Codec()}


def codec_named(name: str, version: int | None = None) -> Codec:
    """The codec of this name.

    Raises:
        MismatchError: when this version of the program does not know it, or knows another version of it.
    """
    codec = CODECS.get(name)
    if codec is None:
        raise MismatchError(f"no codec {name!r}; known are {', '.join(sorted(CODECS))}")
    if version is not None and version != codec.version:
        raise MismatchError(
            f"codec {name} is here in version {codec.version}, the features were made with {version}; "
            "read them with that version, or featurize again"
        )
    return codec


def decode_views(
    codec: Codec, payloads: Sequence[Buffer], num_patches: int, width: int
) -> Float16[Tensor, "views patches width"]:
    """Several views of one shape, decoded into one tensor.

    Raises:
        CorruptError: when the bytes of one are no view of this shape.
    """
    views = torch.empty(len(payloads), num_patches, width, dtype=torch.float16)
    for index, payload in enumerate(payloads):
        views[index] = codec.decode_view(payload, num_patches, width)
    return views


__all__ = ["CODECS", "Buffer", "Codec", "codec_named", "decode_views"]
