"""The default codec: per view and channel affine uint8, with outlier tokens kept in fp16. 54.5 % of fp16.

CLIP features hold a few channels that are hundreds of times larger than the rest, and about 2 % of tokens of
very large norm. One range per channel deals with the first; the second would stretch every range, so that up
to 24 tokens a view are stored as they are and the ranges go over the others. Nothing is calibrated on a
corpus: shards stay independent of each other.

A token's outlier score is the mean of its 8 largest |x - median| / (interquartile range), per channel of the
view; median and quartiles are order statistics without interpolation, so that every machine picks the same
tokens.

One view, little endian, blocks in this order:

    count    u16            K, outlier tokens
    indices  u16 x K        their rows, ascending
    (zeros up to a multiple of 64 bytes)
    zero     fp16 x width   lower end of each channel's range
    scale    fp16 x width   step of each channel; 0 where the channel is constant
    rows     fp16 x K x width
    codes    u8 x patches x width, 0 in outlier rows

    value = min(zero + scale * code, 65504)      in fp32, then rounded to fp16; outlier rows as stored

`zero` is rounded down and `scale` up, so no value falls outside the range: the error is at most scale / 2
plus the rounding of fp16. Encoding sorts every channel, which is the larger part of its cost (about 40 ms a
view of 576 x 1024 on one core, decoding 0.6 ms); it runs where the features are, so on a GPU when they come
from one. Below about 300 tokens the 4 bytes a channel begin to weigh.
"""

import struct
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Bool, Float, Float16, Float32, Int64, UInt8
from torch import Tensor

from operators.codec.interface import FP16_MAX, Buffer, tensor_from_bytes, tensor_to_bytes, to_finite_half
from schemas.errors import CorruptError

MAX_OUTLIERS: Final = 24
PATCHES_PER_OUTLIER: Final = 24
"""At most one outlier for so many tokens: small views keep their ratio."""
CHANNELS_PER_SCORE: Final = 8
LEVELS: Final = 255
_ALIGNMENT: Final = 64


@dataclass(frozen=True, slots=True)
class _Blocks:
    """The parts of one encoded view."""

    indices: Int64[Tensor, " outliers"]
    zero: Float16[Tensor, " width"]
    scale: Float16[Tensor, " width"]
    rows: Float16[Tensor, "outliers width"]
    codes: UInt8[Tensor, "patches width"]


class Int8Codec:
    """Channel-affine uint8 with fp16 outlier tokens."""

    name = "int8"
    version = 1

    def encode_view(self, patches: Float[Tensor, "patches width"]) -> bytes:
        """About one byte a value.

        Raises:
            SampleError: `not_finite` for NaN, infinities and values beyond fp16.
        """
        half = to_finite_half(patches)
        values = patches.detach().float().clamp(-FP16_MAX, FP16_MAX)
        indices = choose_outliers(values)
        ordinary = torch.ones(values.shape[0], dtype=torch.bool, device=values.device)
        ordinary[indices] = False
        zero, scale = fit_ranges(values[ordinary])
        codes = _quantize(values, zero, scale, ordinary)
        return b"".join(
            [
                _pack_indices([int(index) for index in indices.cpu()]),
                tensor_to_bytes(zero),
                tensor_to_bytes(scale),
                tensor_to_bytes(half[indices]),
                tensor_to_bytes(codes),
            ]
        )

    def decode_view(self, data: Buffer, num_patches: int, width: int) -> Float16[Tensor, "patches width"]:
        """The stored values, in fp16.

        Raises:
            CorruptError: when the bytes are no view of this shape.
        """
        blocks = _parse(data, num_patches, width)
        values = blocks.codes.float().mul_(blocks.scale.float()).add_(blocks.zero.float())
        half = values.clamp_(max=FP16_MAX).to(torch.float16)
        half[blocks.indices] = blocks.rows
        return half


def choose_outliers(values: Float32[Tensor, "patches width"]) -> Int64[Tensor, " outliers"]:
    """Rows of the tokens that are kept in fp16, ascending; of equal scores the first rows."""
    num_patches, width = values.shape
    count = min(MAX_OUTLIERS, num_patches // PATCHES_PER_OUTLIER)
    if count == 0:
        return torch.empty(0, dtype=torch.int64, device=values.device)
    ordered = values.t().contiguous().sort(dim=1).values
    median = ordered[:, num_patches // 2]
    spread = ordered[:, 3 * num_patches // 4] - ordered[:, num_patches // 4]
    spread = torch.where(spread > 0, spread, ordered[:, -1] - ordered[:, 0])
    deviation = (values - median).abs() / torch.where(spread > 0, spread, 1.0)
    largest = deviation.topk(min(CHANNELS_PER_SCORE, width), dim=1).values
    score = largest.double().sum(dim=1)
    return score.argsort(descending=True, stable=True)[:count].sort().values


def fit_ranges(
    values: Float32[Tensor, "tokens width"],
) -> tuple[Float16[Tensor, " width"], Float16[Tensor, " width"]]:
    """Lower end, rounded down, and step, rounded up, of each channel; adding 0 turns -0 into the one zero."""
    low, high = values.amin(dim=0), values.amax(dim=0)
    zero = _round_down(low)
    return zero, _round_up_non_negative((high - zero.float()) / LEVELS)


def _quantize(
    values: Float32[Tensor, "patches width"],
    zero: Float16[Tensor, " width"],
    scale: Float16[Tensor, " width"],
    ordinary: Bool[Tensor, " patches"],
) -> UInt8[Tensor, "patches width"]:
    low, step = zero.float(), torch.where(scale > 0, scale, 1.0).float()
    codes = ((values - low) / step).round_().clamp_(0.0, LEVELS)
    return (codes * ordinary[:, None]).to(torch.uint8)


def _round_down(values: Float32[Tensor, " width"]) -> Float16[Tensor, " width"]:
    half = values.to(torch.float16) + 0.0
    bits = half.view(torch.int16)
    below = torch.where(bits > 0, bits - 1, torch.where(bits == 0, -32767, bits + 1)).to(torch.int16)
    return torch.where(half.float() > values, below, bits).to(torch.int16).view(torch.float16)


def _round_up_non_negative(values: Float32[Tensor, " width"]) -> Float16[Tensor, " width"]:
    half = values.to(torch.float16) + 0.0
    bits = half.view(torch.int16)
    return torch.where(half.float() < values, bits + 1, bits).to(torch.int16).view(torch.float16)


def _pack_indices(indices: list[int]) -> bytes:
    packed = struct.pack(f"<H{len(indices)}H", len(indices), *indices)
    return packed + bytes(-len(packed) % _ALIGNMENT)


def _parse(data: Buffer, num_patches: int, width: int) -> _Blocks:
    view = memoryview(data)
    indices, start = _parse_indices(view, num_patches)
    count = len(indices)
    expected = start + (4 + 2 * count + num_patches) * width
    if len(view) != expected:
        raise CorruptError(
            f"an int8 view of {num_patches} x {width} with {count} outlier tokens takes {expected} bytes, "
            f"not {len(view)}"
        )
    codes_start = start + (4 + 2 * count) * width
    halves = tensor_from_bytes(view[start:codes_start], torch.float16).reshape(count + 2, width)
    return _Blocks(
        indices=torch.tensor(indices, dtype=torch.int64),
        zero=halves[0],
        scale=halves[1],
        rows=halves[2:],
        codes=tensor_from_bytes(view[codes_start:], torch.uint8).reshape(num_patches, width),
    )


def _parse_indices(view: memoryview, num_patches: int) -> tuple[list[int], int]:
    if len(view) < _ALIGNMENT:
        raise CorruptError(f"an int8 view of {len(view)} bytes ends inside its first block")
    (count,) = struct.unpack_from("<H", view)
    length = 2 + 2 * count
    length += -length % _ALIGNMENT
    if count > num_patches or length > len(view):
        raise CorruptError(f"an int8 view of {num_patches} tokens cannot hold {count} outlier tokens")
    indices = list(struct.unpack_from(f"<{count}H", view, 2))
    if indices != sorted(set(indices)) or (indices and indices[-1] >= num_patches):
        raise CorruptError(f"outlier tokens {indices} are no ascending rows below {num_patches}")
    return indices, length
