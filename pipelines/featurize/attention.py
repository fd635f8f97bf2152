"""The attention weights of a spec as a file: safetensors, with one line of metadata.

Heads and epsilon stand in a single entry, as canonical JSON: safetensors writes several entries in an order
that differs from process to process, and the file is named by its digest.
"""

from typing import Final

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load, save

from operators.class_attention import TENSOR_NAMES, AttentionWeights
from schemas.digest import canonical_json
from schemas.errors import CorruptError

_ENTRY: Final = "attention"
_LENGTH_BYTES: Final = 8


class _Shape(msgspec.Struct, frozen=True):
    num_heads: int
    norm_epsilon: float


class _Header(msgspec.Struct, frozen=True):
    metadata: dict[str, str] = msgspec.field(name="__metadata__")


def pack_attention(weights: AttentionWeights) -> bytes:
    """The bytes that are stored; the same weights give the same bytes."""
    shape = canonical_json({"num_heads": weights.num_heads, "norm_epsilon": weights.norm_epsilon})
    return save(dict(weights.tensors), metadata={_ENTRY: shape.decode()})


def read_attention(data: bytes) -> AttentionWeights:
    """The weights in the stored bytes.

    Raises:
        CorruptError: when they are not those of `pack_attention`.
    """
    try:
        tensors = load(data)
        length = int.from_bytes(data[:_LENGTH_BYTES], "little")
        header = msgspec.json.decode(data[_LENGTH_BYTES : _LENGTH_BYTES + length], type=_Header)
        shape = msgspec.json.decode(header.metadata[_ENTRY], type=_Shape)
    except (SafetensorError, msgspec.MsgspecError, KeyError) as error:
        raise CorruptError(f"the attention weights cannot be read: {error}; featurize again") from error
    if sorted(tensors) != sorted(TENSOR_NAMES):
        raise CorruptError(f"the attention weights are {sorted(tensors)}; featurize again")
    return AttentionWeights(tensors=tensors, num_heads=shape.num_heads, norm_epsilon=shape.norm_epsilon)
