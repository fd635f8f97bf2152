"""What a codec is: patch tokens of views to bytes, each view by itself, and back.

One frame of a clip or the whole picture of five views is read and decoded alone, so every view has bytes of
its own. What a codec needs besides (a quality step, statistics of the corpus) stands in its `CodecIdentity`,
which is part of the feature spec: the same view under the same identity gives the same bytes. Bytes are
little endian throughout, as on every machine that torch runs on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float16, UInt8
from torch import Tensor

from schemas.errors import CorruptError, RejectCode, SampleError
from schemas.feature import CodecIdentity
from schemas.fidelity import FidelityFloor

Buffer: TypeAlias = bytes | bytearray | memoryview

FP16_MAX: Final = 65504.0
_FIRST_INFINITE: Final = 65520.0
"""From here on fp16 rounds to infinity."""
VIEWS_PER_CALL: Final = 32
"""Views that a GPU takes at once; a core goes view by view, which then stay in its cache."""


@runtime_checkable
class Codec(Protocol):
    """One way to store views, opened under one identity."""

    def encode(self, views: Float[Tensor, "views patches width"]) -> list[bytes]:
        """The bytes of each view; computed where the views are.

        Raises:
            SampleError: `not_finite` for NaN, infinities and values beyond fp16.
        """
        ...

    def decode_into(self, payloads: Sequence[Buffer], out: Float16[Tensor, "views patches width"]) -> None:
        """Decode views into `out`; copied to its device as they are stored, and dequantized there.

        Raises:
            CorruptError: when the bytes of one are no view of this shape.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecKind:
    """What the registry knows of a codec."""

    version: int
    """Rises with every change of the bytes."""
    open: Callable[[CodecIdentity], Codec]
    """Raises `MismatchError` when the identity lacks what the codec needs."""
    promise: Callable[[CodecIdentity], FidelityFloor] | None = None
    """The fidelity below which an audit fails."""
    default_step: float | None = None
    """Of the quality knob; None: it has none."""
    needs_statistics: bool = False
    """Whether median and interquartile range of the corpus's channels belong to its identity."""
    library: str | None = None
    """Name and version of a library that decides the last bit of what is written, not of what is read."""


def check_finite(views: Float[Tensor, "*shape"]) -> None:
    """See that fp16 can hold every value; one pass.

    Raises:
        SampleError: `not_finite` for NaN, infinities and values that fp16 cannot hold.
    """
    if not views.numel():
        return
    low, high = (float(end) for end in views.detach().aminmax())
    if not -_FIRST_INFINITE < low <= high < _FIRST_INFINITE:
        bad = views[~(views.float().abs() < _FIRST_INFINITE)]
        raise SampleError(
            RejectCode.NOT_FINITE,
            f"{bad.numel()} of {views.numel()} feature values are not finite or beyond {FP16_MAX:.0f}, "
            f"the first is {float(bad[0])}",
        )


def split_for_device(num_views: int, device: torch.device) -> list[slice]:
    """Parts of a batch that are taken at once."""
    step = VIEWS_PER_CALL if device.type == "cuda" else 1
    return [slice(start, min(start + step, num_views)) for start in range(0, num_views, step)]


class Staging:
    """Encoded views of one length as rows of a tensor, where they are decoded.

    A GPU copies them from pinned memory: from where they stand, if that is pinned, or a batch at once from a
    copy that is. A CPU takes one view at a time and decodes it from
    where it stands, where that memory may be written to, as a reader's may: torch warns of other memory,
    which is copied.
    """

    def __init__(self, num_views: int, num_bytes: int, device: torch.device) -> None:
        self._shape = (num_views, num_bytes)
        self._device = device

    def stack(self, payloads: Sequence[Buffer]) -> UInt8[Tensor, "payloads bytes"]:
        """Payloads as rows, to be read before the next are stacked; on a CPU they may be the payload itself.

        Raises:
            CorruptError: when one has another length.
        """
        num_bytes = self._shape[1]
        for payload in payloads:
            if len(payload) != num_bytes:
                message = f"an encoded view of this shape takes {num_bytes} bytes, not {len(payload)}"
                raise CorruptError(message)
        if self._device.type == "cuda" and all(map(_is_pinned, payloads)):
            return self._copy_from_pinned(payloads)
        is_there = self._device.type == "cpu" and len(payloads) == 1
        if is_there and num_bytes and not memoryview(payloads[0]).readonly:
            return torch.frombuffer(payloads[0], dtype=torch.uint8)[None]
        rows = self._room.numpy()
        for row, payload in zip(rows, payloads, strict=False):
            row[:] = np.frombuffer(payload, np.uint8)
        return self._room[: len(payloads)].to(self._device)

    def _copy_from_pinned(self, payloads: Sequence[Buffer]) -> UInt8[Tensor, "payloads bytes"]:
        """Waits until all are there: their memory may be written to again as soon as this returns."""
        rows = torch.empty(len(payloads), self._shape[1], dtype=torch.uint8, device=self._device)
        for row, payload in zip(rows, payloads, strict=True):
            row.copy_(torch.frombuffer(payload, dtype=torch.uint8), non_blocking=True)
        torch.cuda.current_stream(self._device).synchronize()
        return rows

    @cached_property
    def _room(self) -> UInt8[Tensor, "views bytes"]:
        return torch.empty(self._shape, dtype=torch.uint8, pin_memory=self._device.type == "cuda")


def _is_pinned(payload: Buffer) -> bool:
    is_readonly = memoryview(payload).readonly
    return not is_readonly and torch.frombuffer(payload, dtype=torch.uint8).is_pinned()


def to_rows_of_bytes(tensor: Tensor) -> UInt8[Tensor, "views bytes"]:
    """The memory of each view."""
    return tensor.contiguous().flatten(1).view(torch.uint8)


def tensor_to_bytes(tensor: Tensor) -> bytes:
    """The memory of a tensor, row by row."""
    return tensor.contiguous().flatten().view(torch.uint8).cpu().numpy().tobytes()


def tensor_from_bytes(data: Buffer, dtype: torch.dtype) -> Tensor:
    """A flat tensor over a copy of the bytes: torch warns about memory that it must not write to."""
    if len(data) == 0:
        return torch.empty(0, dtype=dtype)
    return torch.frombuffer(bytearray(data), dtype=dtype)
