"""The default codec: uint8 by a range per channel and a scale per token, outlier tokens in fp16. 54.8 %.

CLIP features hold a few channels that are hundreds of times larger than the rest, tokens whose norms differ
by factors, and about 2 % of tokens of very large norm. A range per channel deals with the first, a scale per
token with the second; the third would stretch every range, so that up to 24 tokens a view are stored as they
are and the ranges go over the others. Nothing is taken from a corpus: shards stay independent of each other.

    deviation(token, channel) = (value - center(channel)) / token_scale(token)
    value                     = center + token_scale * (zero + scale * code)

`center` and the unit of deviations are median and quartiles over 64 tokens at equal distances. A token's
scale is its mean absolute deviation in these units, at least a quarter of the median token's. Outliers are
the tokens whose scaled deviations have the largest sum of fourth powers. Both are counted in eighths, see
`operators.codec.robust`, so that every machine finds the same.

One view, little endian, blocks in this order:

    count    u16            K, outlier tokens
    flags    u16            1: values may come out beyond fp16, hold them within
    indices  u16 x K        their rows, ascending
    (zeros up to a multiple of 64 bytes)
    center   fp16 x width
    zero     fp16 x width   lower end of each channel's range, of deviations
    scale    fp16 x width   step of each channel; 0 where the channel is constant
    tokens   fp16 x patches scale of each token
    rows     fp16 x K x width
    codes    u8 x patches x width, 0 in outlier rows

    value = ((code * scale + zero) * token + center) in fp32, rounded to fp16; outlier rows as stored

`zero` is rounded down and `scale` up, so no deviation falls outside the range: the error is at most half a
step by the token's scale, plus the rounding of fp16. Below about 300 tokens the 6 bytes a channel begin to
weigh: 144 tokens take 57 %.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Bool, Float, Float16, Float32, Float64, Int64, UInt8
from torch import Tensor

from operators.codec.interface import (
    FP16_MAX,
    Buffer,
    CodecKind,
    Staging,
    check_finite,
    split_for_device,
    to_rows_of_bytes,
)
from operators.codec.robust import count_units, measure_channels
from schemas.errors import CorruptError
from schemas.feature import CodecIdentity
from schemas.fidelity import FidelityFloor

MAX_OUTLIERS: Final = 24
PATCHES_PER_OUTLIER: Final = 24
"""At most one outlier for so many tokens: small views keep their ratio."""
TOKENS_MEASURED: Final = 64
LEVELS: Final = 255
MOST_FOR_SCALE: Final = 8.0
"""Deviations count up to here in a token's scale: a few wild channels do not decide it."""
MOST_FOR_SCORE: Final = 127.0
LEAST_SHARE: Final = 0.25
"""Of the median token's scale: smaller ones would only widen ranges."""
LEAST_SCALE: Final = 2.0
"""Deviations are then within fp16 whatever the values were."""
MOST_SCALE: Final = 128.0
_ALIGNMENT: Final = 64


@dataclass(frozen=True, slots=True)
class _Head:
    """The first block of a view."""

    outliers: tuple[int, ...]
    is_near_end: bool


@dataclass(frozen=True, slots=True)
class _Scratch:
    """Room for the steps of encoding: allocating it for every view takes as long as encoding."""

    deviations: Float32[Tensor, "views patches width"]
    scaled: Float32[Tensor, "views patches width"]
    units: Float32[Tensor, "views patches width"]
    powers: Float64[Tensor, "views patches width"]

    def first(self, part: slice) -> "_Scratch":
        """As much of it as a part of a batch needs."""
        num_views = part.stop - part.start
        return _Scratch(
            self.deviations[:num_views],
            self.scaled[:num_views],
            self.units[:num_views],
            self.powers[:num_views],
        )


class Int8Codec:
    """Ranges per channel, scales per token, outlier tokens in fp16."""

    def encode(self, views: Float[Tensor, "views patches width"]) -> list[bytes]:
        """See `Codec.encode`."""
        parts = split_for_device(len(views), views.device)
        scratch = _make_scratch(views[parts[0]] if parts else views)
        return [data for part in parts for data in _encode_part(views[part], scratch.first(part))]

    def decode_into(self, payloads: Sequence[Buffer], out: Float16[Tensor, "views patches width"]) -> None:
        """See `Codec.decode_into`."""
        parts = split_for_device(len(out), out.device)
        if not parts:
            return
        values = torch.empty_like(out[parts[0]], dtype=torch.float32)
        staging = Staging(len(values), _view_bytes(out.shape[1], out.shape[2]), out.device)
        for part in parts:
            _decode_part(payloads[part], staging, values[: part.stop - part.start], out[part])


def choose_outliers(
    deviations: Float32[Tensor, "views patches width"],
    count: int,
    units: Float32[Tensor, "views patches width"],
    powers: Float64[Tensor, "views patches width"],
) -> Int64[Tensor, "views {count}"]:
    """Rows of the tokens that are kept in fp16, ascending; of equal scores the first rows.

    Fourth powers are rounded to fp32, still whole numbers, and their sums below 2^53: exact in any order.
    """
    squares = count_units(deviations, MOST_FOR_SCORE, units).square_()
    score = torch.mul(squares, squares, out=powers).sum(dim=2)
    return score.argsort(dim=1, descending=True, stable=True)[:, :count].sort(dim=1).values


def scale_tokens(
    deviations: Float32[Tensor, "views patches width"], units: Float32[Tensor, "views patches width"]
) -> Float16[Tensor, "views patches"]:
    """The scale of each token; `units` is overwritten."""
    size = count_units(deviations, MOST_FOR_SCALE, units).sum(dim=2)
    least = LEAST_SHARE * size.sort(dim=1).values[:, size.shape[1] // 2]
    least = torch.where(least > 0, least, 1.0)[:, None]
    return (size / least * LEAST_SCALE).clamp_(LEAST_SCALE, MOST_SCALE).to(torch.float16)


def count_outliers(num_patches: int) -> int:
    """How many tokens of a view are kept in fp16."""
    return min(MAX_OUTLIERS, num_patches // PATCHES_PER_OUTLIER)


def _make_scratch(views: Float[Tensor, "views patches width"]) -> _Scratch:
    single = [torch.empty_like(views, dtype=torch.float32) for _ in range(3)]
    return _Scratch(*single, powers=torch.empty_like(views, dtype=torch.float64))


def _encode_part(views: Float[Tensor, "views patches width"], scratch: _Scratch) -> list[bytes]:
    check_finite(views)
    num_views, num_patches = views.shape[:2]
    values = views.detach().float()
    center, unit = measure_channels(values[:, :: max(1, num_patches // TOKENS_MEASURED)])
    center = center.clamp(-FP16_MAX, FP16_MAX).to(torch.float16) + 0.0
    deviations = torch.sub(values, center.float()[:, None], out=scratch.deviations)
    scaled = torch.div(deviations, unit[:, None], out=scratch.scaled)
    tokens = scale_tokens(scaled, scratch.units)
    by_token = tokens.float()[..., None]
    outliers = choose_outliers(
        scaled.div_(by_token), count_outliers(num_patches), scratch.units, scratch.powers
    )
    view = torch.arange(num_views, device=values.device)[:, None]
    is_ordinary = torch.ones(num_views, num_patches, dtype=torch.uint8, device=values.device)
    is_ordinary[view, outliers] = 0
    deviations /= by_token
    deviations[view, outliers] = deviations[view, is_ordinary.argmax(dim=1)[:, None]]
    zero, scale, codes = _quantize(deviations)
    codes[view, outliers] = 0
    rows = values[view, outliers].clamp_(-FP16_MAX, FP16_MAX).to(torch.float16)
    head = _pack_head(outliers, _is_near_end(center, zero, scale, tokens))
    blocks = [head, center, zero, scale, tokens, rows, codes]
    packed = torch.cat([to_rows_of_bytes(block) for block in blocks], dim=1)
    return [row.tobytes() for row in packed.cpu().numpy()]


def _quantize(
    deviations: Float32[Tensor, "views patches width"],
) -> tuple[
    Float16[Tensor, "views width"], Float16[Tensor, "views width"], UInt8[Tensor, "views patches width"]
]:
    """Lower end of each channel, rounded down, its step, rounded up, and codes; overwrites `deviations`.

    Divisors are tensors: by a number, a GPU would multiply with its inverse, and end in other bits.
    """
    zero = _round_down(deviations.amin(dim=1))
    levels = torch.full_like(zero, LEVELS, dtype=torch.float32)
    scale = _round_up_non_negative((deviations.amax(dim=1) - zero.float()) / levels)
    step = torch.where(scale > 0, scale, 1.0).float()[:, None]
    codes = deviations.sub_(zero.float()[:, None]).div_(step).round_().clamp_(0.0, LEVELS)
    return zero, scale, codes.to(torch.uint8)


def _decode_part(
    payloads: Sequence[Buffer],
    staging: Staging,
    values: Float32[Tensor, "views patches width"],
    out: Float16[Tensor, "views patches width"],
) -> None:
    """Several views into their place; `values` is overwritten."""
    num_views, num_patches, width = out.shape
    heads = [_parse_head(payload, num_patches) for payload in payloads]
    stacked = staging.stack(payloads)
    codes_start = stacked.shape[1] - num_patches * width
    parts = stacked[:, _head_bytes(count_outliers(num_patches)) : codes_start]
    halves = parts.reshape(-1).view(torch.float16).view(num_views, -1)
    rows = halves[:, 3 * width + num_patches :]
    factors = halves[:, : 3 * width + num_patches].float()
    center, zero, scale = factors[:, : 3 * width].view(num_views, 3, 1, width).unbind(1)
    values.copy_(stacked[:, codes_start:].view(num_views, num_patches, width))
    values.mul_(scale).add_(zero).mul_(factors[:, 3 * width :, None]).add_(center)
    if any(head.is_near_end for head in heads):
        values.clamp_(-FP16_MAX, FP16_MAX)
    out.copy_(values)
    places = [view * num_patches + row for view, head in enumerate(heads) for row in head.outliers]
    index = torch.tensor(places, dtype=torch.int64, device=out.device)
    out.view(-1, width)[index] = rows.reshape(-1, width)


def _is_near_end(
    center: Float16[Tensor, "views width"],
    zero: Float16[Tensor, "views width"],
    scale: Float16[Tensor, "views width"],
    tokens: Float16[Tensor, "views patches"],
) -> Bool[Tensor, " views"]:
    """Whether a decoded value might be beyond fp16: rare, and known here without looking at all values."""
    reach = torch.maximum((scale.float() * LEVELS + zero.float()).abs(), zero.float().abs())
    furthest = reach * tokens.float().amax(dim=1, keepdim=True) + center.float().abs()
    return furthest.amax(dim=1) > FP16_MAX / 2


def _round_down(values: Float32[Tensor, "views width"]) -> Float16[Tensor, "views width"]:
    """Adding 0 turns -0 into the one zero."""
    half = values.to(torch.float16) + 0.0
    bits = half.view(torch.int16)
    below = torch.where(bits > 0, bits - 1, torch.where(bits == 0, -32767, bits + 1)).to(torch.int16)
    return torch.where(half.float() > values, below, bits).to(torch.int16).view(torch.float16)


def _round_up_non_negative(values: Float32[Tensor, "views width"]) -> Float16[Tensor, "views width"]:
    half = values.to(torch.float16) + 0.0
    bits = half.view(torch.int16)
    return torch.where(half.float() < values, bits + 1, bits).to(torch.int16).view(torch.float16)


def _pack_head(
    outliers: Int64[Tensor, "views outliers"], is_near_end: Bool[Tensor, " views"]
) -> UInt8[Tensor, "views bytes"]:
    num_views, count = outliers.shape
    block = torch.zeros(num_views, _head_bytes(count) // 2, dtype=torch.int16, device=outliers.device)
    block[:, 0] = count
    block[:, 1] = is_near_end
    block[:, 2 : 2 + count] = outliers
    return to_rows_of_bytes(block)


def _view_bytes(num_patches: int, width: int) -> int:
    count = count_outliers(num_patches)
    return _head_bytes(count) + 2 * ((3 + count) * width + num_patches) + num_patches * width


def _head_bytes(count: int) -> int:
    length = 4 + 2 * count
    return length + -length % _ALIGNMENT


def _parse_head(data: Buffer, num_patches: int) -> _Head:
    expected = count_outliers(num_patches)
    if len(data) < _head_bytes(expected):
        raise CorruptError(f"an int8 view of {len(data)} bytes ends inside its first block")
    count, flags = struct.unpack_from("<HH", data)
    if count != expected or flags > 1:
        raise CorruptError(
            f"an int8 view of {num_patches} tokens holds {expected} outlier tokens, not {count}"
        )
    outliers = struct.unpack_from(f"<{count}H", data, 4)
    if list(outliers) != sorted(set(outliers)) or (outliers and outliers[-1] >= num_patches):
        raise CorruptError(f"outlier tokens {list(outliers)} are no ascending rows below {num_patches}")
    return _Head(outliers, flags == 1)


def _open(identity: CodecIdentity) -> Int8Codec:
    return Int8Codec()


INT8_KIND: Final = CodecKind(
    version=2,
    open=_open,
    promise=lambda _: FidelityFloor(raw_cosine=0.9999, normalized_cosine=0.9998, channel_nrmse=0.02),
)
