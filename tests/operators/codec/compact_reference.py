"""The compact codec again, slow and plain: Python loops over numpy scalars, before and after zstd."""

import math
import struct
from dataclasses import dataclass

import numpy as np
import zstandard

FP16, FP32 = np.float16, np.float32


@dataclass(frozen=True)
class Plain:
    """A view before its symbols are packed."""

    places: list[int]
    values: list[np.float16]
    steps: np.ndarray
    symbols: np.ndarray


def quantize_slowly(values: np.ndarray, step: float, median: np.ndarray, spread: np.ndarray) -> Plain:
    num_patches, width = values.shape
    unit = spread.astype(FP32) / FP32(1.349)
    places, escaped = [], []
    steps = np.zeros(num_patches, FP16)
    symbols = np.zeros((num_patches, width), np.int8)
    for token in range(num_patches):
        deviations = [(values[token, c] - FP32(median[c])) / unit[c] for c in range(width)]
        square = sum(round(float(min(abs(d), FP32(8)) * FP32(8))) ** 2 for d in deviations)
        steps[token] = FP16(FP32(max(math.sqrt(square) * (step / (8 * width**0.5)), 2**-14)))
        for channel in range(width):
            symbol = np.rint(deviations[channel] / FP32(steps[token]))
            if abs(symbol) > 127:
                places.append(token * width + channel)
                escaped.append(FP16(values[token, channel]))
            else:
                symbols[token, channel] = int(symbol)
    return Plain(places, escaped, steps, symbols)


def unpack_slowly(data: bytes, num_patches: int, width: int) -> Plain:
    (count,) = struct.unpack_from("<I", data)
    places = struct.unpack_from(f"<{count}I", data, 4)
    values = np.frombuffer(data, FP16, count, 4 + 4 * count)
    steps = np.frombuffer(data, FP16, num_patches, 4 + 6 * count)
    frame = data[4 + 6 * count + 2 * num_patches :]
    symbols = np.frombuffer(zstandard.decompress(frame), np.int8).reshape(num_patches, width)
    return Plain(list(places), list(values), steps, symbols)


def dequantize_slowly(plain: Plain, median: np.ndarray, spread: np.ndarray) -> np.ndarray:
    unit = spread.astype(FP32) / FP32(1.349)
    num_patches, width = plain.symbols.shape
    values = np.zeros((num_patches, width), FP16)
    for token in range(num_patches):
        for channel in range(width):
            value = FP32(plain.symbols[token, channel]) * FP32(plain.steps[token])
            value = value * unit[channel] + FP32(median[channel])
            values[token, channel] = FP16(max(-65504, min(value, 65504)))
    for place, value in zip(plain.places, plain.values, strict=True):
        values[divmod(place, width)] = value
    return values
