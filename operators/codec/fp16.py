"""The plain codec: fp16, row by row. 1,179,648 bytes for 576 patches of 1024."""

import torch
from jaxtyping import Float, Float16
from torch import Tensor

from operators.codec.interface import Buffer, tensor_from_bytes, tensor_to_bytes, to_finite_half
from schemas.errors import CorruptError


class Fp16Codec:
    """Exact for what was fp16 before; otherwise rounded to nearest even."""

    name = "fp16"
    version = 1

    def encode_view(self, patches: Float[Tensor, "patches width"]) -> bytes:
        """Two bytes a value.

        Raises:
            SampleError: `not_finite` for NaN, infinities and values beyond fp16.
        """
        return tensor_to_bytes(to_finite_half(patches))

    def decode_view(self, data: Buffer, num_patches: int, width: int) -> Float16[Tensor, "patches width"]:
        """The same values.

        Raises:
            CorruptError: when the length does not fit the shape.
        """
        expected = 2 * num_patches * width
        if len(data) != expected:
            raise CorruptError(
                f"an fp16 view of {num_patches} x {width} takes {expected} bytes, not {len(data)}"
            )
        return tensor_from_bytes(data, torch.float16).reshape(num_patches, width)
