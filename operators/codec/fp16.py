"""The plain codec: fp16, row by row. 1,179,648 bytes for 576 patches of 1024.

Exact for what was fp16 before; otherwise rounded to nearest even.
"""

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Float, Float16
from torch import Tensor

from operators.codec.interface import (
    Buffer,
    CodecKind,
    Staging,
    check_finite,
    split_for_device,
    tensor_to_bytes,
)
from schemas.feature import CodecIdentity
from schemas.fidelity import FidelityFloor


class Fp16Codec:
    """Two bytes a value."""

    def encode(self, views: Float[Tensor, "views patches width"]) -> list[bytes]:
        """See `Codec.encode`."""
        check_finite(views)
        return [tensor_to_bytes(view.detach().to(torch.float16)) for view in views]

    def decode_into(self, payloads: Sequence[Buffer], out: Float16[Tensor, "views patches width"]) -> None:
        """See `Codec.decode_into`."""
        num_bytes = 2 * out.shape[1] * out.shape[2]
        parts = split_for_device(len(out), out.device)
        staging = Staging(len(out[parts[0]]) if parts else 0, num_bytes, out.device)
        for part in parts:
            rows = staging.stack(payloads[part])
            out[part] = rows.view(torch.float16).view(out[part].shape)


def _open(identity: CodecIdentity) -> Fp16Codec:
    return Fp16Codec()


FP16_KIND: Final = CodecKind(
    version=1,
    open=_open,
    promise=lambda _: FidelityFloor(raw_cosine=0.9999, normalized_cosine=0.9999, channel_nrmse=0.005),
)
