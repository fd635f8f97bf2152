"""What a codec is: one view's patch tokens to bytes and back.

A codec sees one view at a time, so that one frame of a clip or the whole picture of five views is read and
decoded alone. It holds no state that depends on the data: the same view gives the same bytes in any corpus.
Bytes are little endian throughout, as on every machine that torch runs on.
"""

from typing import Final, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float, Float16
from torch import Tensor

from schemas.errors import RejectCode, SampleError

Buffer: TypeAlias = bytes | bytearray | memoryview

FP16_MAX: Final = 65504.0


@runtime_checkable
class Codec(Protocol):
    """One way to store a view. `name` and `version` stand in the feature spec and in every feature file."""

    @property
    def name(self) -> str:
        """ASCII, at most 16 characters."""
        ...

    @property
    def version(self) -> int:
        """Rises with every change of the bytes."""
        ...

    def encode_view(self, patches: Float[Tensor, "patches width"]) -> bytes:
        """The bytes of one view; on any device.

        Raises:
            SampleError: `not_finite` for NaN, infinities and values beyond fp16.
        """
        ...

    def decode_view(self, data: Buffer, num_patches: int, width: int) -> Float16[Tensor, "patches width"]:
        """The view of these bytes, on the CPU.

        Raises:
            CorruptError: when the bytes are no view of this shape.
        """
        ...


def to_finite_half(patches: Float[Tensor, "patches width"]) -> Float16[Tensor, "patches width"]:
    """Rounded to fp16.

    Raises:
        SampleError: `not_finite` for NaN, infinities and values that fp16 cannot hold.
    """
    half = patches.detach().to(torch.float16)
    if not bool(torch.isfinite(half).all()):
        bad = patches[~torch.isfinite(half)]
        raise SampleError(
            RejectCode.NOT_FINITE,
            f"{bad.numel()} of {patches.numel()} feature values are not finite or beyond {FP16_MAX:.0f}, "
            f"the first is {float(bad[0])}",
        )
    return half


def tensor_to_bytes(tensor: Tensor) -> bytes:
    """The memory of a tensor, row by row."""
    return tensor.contiguous().flatten().view(torch.uint8).cpu().numpy().tobytes()


def tensor_from_bytes(data: Buffer, dtype: torch.dtype) -> Tensor:
    """A flat tensor over a copy of the bytes: torch warns about memory that it must not write to."""
    if len(data) == 0:
        return torch.empty(0, dtype=dtype)
    return torch.frombuffer(bytearray(data), dtype=dtype)
