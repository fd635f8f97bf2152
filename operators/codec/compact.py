"""The small codec: uniform steps on the corpus's median and spread, then zstd. About 34 % at step 0.1.

Deviations from the corpus's median, in units of its spread, are close to normal in every channel, so that one
step fits all and an entropy coder finds little to lose. Median and quartiles, not mean and deviation: those
are wrecked by the few tokens of very large norm. A token's step is `step` times its own root mean square, so
the relative error of every token is alike: 1 - cosine is about step^2 / 24, a channel's error step / 3.5.

    deviation(token, channel) = (value - median(channel)) / (spread(channel) / 1.349)
    symbol                    = deviation / token_step, rounded; beyond 127 the value stands among the escapes
    value                     = symbol * token_step * (spread / 1.349) + median

`median` and `spread` stand in the feature spec. The root mean square counts deviations in eighths up to 8,
see `operators.codec.robust`; so massive outliers do not coarsen their token.

One view, little endian, blocks in this order:

    count    u32            E, escaped values
    places   u32 x E        token * width + channel, ascending
    values   fp16 x E
    steps    fp16 x patches
    symbols  zstd frame with its content size: i8 x patches x width, 0 where escaped

What zstd writes differs between its releases, so the release is part of the spec; what it reads does not.
Symbols are unpacked by cores and dequantized where the features are wanted.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import zstandard
from jaxtyping import Float, Float16, Float32, Int8, Int64
from torch import Tensor

from operators.codec.interface import (
    FP16_MAX,
    Buffer,
    CodecKind,
    check_finite,
    split_for_device,
    tensor_from_bytes,
    tensor_to_bytes,
)
from operators.codec.robust import UNITS, count_units
from schemas.errors import CorruptError, MismatchError
from schemas.feature import ChannelStatistics, CodecIdentity
from schemas.fidelity import FidelityFloor

DEFAULT_STEP: Final = 0.1
SPREAD_PER_DEVIATION: Final = 1.349
"""Interquartile range of a normal distribution of deviation 1."""
LARGEST_SYMBOL: Final = 127
MOST: Final = 8.0
"""Deviations count up to here in a token's root mean square."""
LEAST_STEP: Final = 2.0**-14
"""The smallest that fp16 holds in full precision."""
ZSTD_LEVEL: Final = 3


@dataclass(frozen=True, slots=True)
class _Parsed:
    """The parts of one encoded view."""

    places: Int64[Tensor, " escapes"]
    values: Float16[Tensor, " escapes"]
    steps: Float16[Tensor, " patches"]
    frame: memoryview


class CompactCodec:
    """Uniform steps on frozen statistics, entropy coded."""

    def __init__(self, step: float, statistics: ChannelStatistics) -> None:
        self._step = step
        self._median = torch.tensor(statistics.median, dtype=torch.float32)
        self._unit = torch.tensor(statistics.spread, dtype=torch.float32) / SPREAD_PER_DEVIATION

    def encode(self, views: Float[Tensor, "views patches width"]) -> list[bytes]:
        """See `Codec.encode`.

        Raises:
            MismatchError: when the statistics are of another width.
        """
        self._check_width(views.shape[2])
        parts = split_for_device(len(views), views.device)
        return [data for part in parts for data in self._encode_part(views[part])]

    def decode_into(self, payloads: Sequence[Buffer], out: Float16[Tensor, "views patches width"]) -> None:
        """See `Codec.decode_into`."""
        num_patches, width = out.shape[1:]
        self._check_width(width)
        median, unit = self._median.to(out.device), self._unit.to(out.device)
        parts = split_for_device(len(out), out.device)
        room = torch.empty_like(out[parts[0]], dtype=torch.float32) if parts else torch.empty(0)
        for part in parts:
            parsed = [_parse(payload, num_patches, width) for payload in payloads[part]]
            symbols = _unpack_symbols([one.frame for one in parsed], num_patches, width)
            steps = torch.stack([one.steps for one in parsed]).to(out.device)
            values = room[: len(parsed)].copy_(symbols).mul_(steps.float()[..., None])
            values.mul_(unit).add_(median).clamp_(-FP16_MAX, FP16_MAX)
            out[part] = values
            for view, one in zip(out[part], parsed, strict=True):
                view.view(-1)[one.places.to(out.device)] = one.values.to(out.device)

    def _encode_part(self, views: Float[Tensor, "views patches width"]) -> list[bytes]:
        check_finite(views)
        unit, median = self._unit.to(views.device), self._median.to(views.device)
        deviations = torch.sub(views.detach().float(), median).div_(unit)
        steps = choose_steps(deviations, self._step)
        rounded = deviations.div_(steps.float()[..., None]).round_()
        is_escaped = rounded.abs() > LARGEST_SYMBOL
        symbols = rounded.masked_fill_(is_escaped, 0.0).to(torch.int8)
        half = views.detach().to(torch.float16)
        return [
            _pack(*parts)
            for parts in zip(half.cpu(), steps.cpu(), symbols.cpu(), is_escaped.cpu(), strict=True)
        ]

    def _check_width(self, width: int) -> None:
        if width != len(self._median):
            raise MismatchError(
                f"the statistics of the spec are of {len(self._median)} channels, the features have {width}"
            )


def choose_steps(
    deviations: Float32[Tensor, "views patches width"], step: float
) -> Float16[Tensor, "views patches"]:
    """The step of each token; roots in float64, for float32 ones differ in the last bit by processor."""
    units = count_units(deviations, MOST, torch.empty_like(deviations))
    length = units.square_().sum(dim=2).double().sqrt()
    return (length * (step / (UNITS * deviations.shape[2] ** 0.5))).clamp_(min=LEAST_STEP).float().half()


def _pack(half: Tensor, steps: Tensor, symbols: Int8[Tensor, "patches width"], is_escaped: Tensor) -> bytes:
    places = is_escaped.flatten().nonzero().flatten()
    frame = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(tensor_to_bytes(symbols))
    return b"".join(
        [
            struct.pack("<I", len(places)),
            tensor_to_bytes(places.to(torch.int32)),
            tensor_to_bytes(half.flatten()[places]),
            tensor_to_bytes(steps),
            frame,
        ]
    )


def _parse(data: Buffer, num_patches: int, width: int) -> _Parsed:
    view = memoryview(data)
    count = struct.unpack_from("<I", view)[0] if len(view) >= 4 else 0
    steps_start = 4 + 6 * count
    frame_start = steps_start + 2 * num_patches
    if len(view) <= frame_start or count > num_patches * width:
        raise CorruptError(f"a compact view of {len(view)} bytes ends before its symbols")
    places = tensor_from_bytes(view[4 : 4 + 4 * count], torch.int32).long()
    if count and not _is_ascending_below(places, num_patches * width):
        raise CorruptError(f"the {count} escapes of a compact view are no ascending places")
    return _Parsed(
        places=places,
        values=tensor_from_bytes(view[4 + 4 * count : steps_start], torch.float16),
        steps=tensor_from_bytes(view[steps_start:frame_start], torch.float16),
        frame=view[frame_start:],
    )


def _is_ascending_below(places: Int64[Tensor, " escapes"], end: int) -> bool:
    return bool((places.diff() > 0).all()) and int(places[0]) >= 0 and int(places[-1]) < end


def _unpack_symbols(
    frames: Sequence[memoryview], num_patches: int, width: int
) -> Int8[Tensor, "views patches width"]:
    symbols = torch.empty(len(frames), num_patches, width, dtype=torch.int8)
    rows = symbols.flatten(1).numpy()
    for row, frame in zip(rows, frames, strict=True):
        row[:] = np.frombuffer(_decompress(frame, row.nbytes), np.int8)
    return symbols


def _decompress(frame: memoryview, num_bytes: int) -> bytes:
    """Exactly so many bytes: a frame that claims others is refused before it is unpacked."""
    try:
        claimed = zstandard.frame_content_size(frame)
        if claimed != num_bytes:
            raise CorruptError(f"the symbols of a compact view are {claimed} bytes and not {num_bytes}")
        return zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CorruptError(f"the symbols of a compact view do not unpack: {error}") from error


def _open(identity: CodecIdentity) -> CompactCodec:
    if identity.statistics is None or identity.step is None or not 0.01 <= identity.step <= 1:
        raise MismatchError(
            f"codec compact needs statistics of the corpus and a step from 0.01 to 1, not {identity.step}"
        )
    return CompactCodec(identity.step, identity.statistics)


def _promise(identity: CodecIdentity) -> FidelityFloor:
    step = identity.step or DEFAULT_STEP
    cosine = 1 - step**2 / 10
    return FidelityFloor(raw_cosine=cosine, normalized_cosine=cosine, channel_nrmse=step / 2)


COMPACT_KIND: Final = CodecKind(
    version=2,
    open=_open,
    promise=_promise,
    default_step=DEFAULT_STEP,
    needs_statistics=True,
    library=f"zstd {'.'.join(str(part) for part in zstandard.ZSTD_VERSION)}",
)
