"""The int8 codec again, slow and plain: Python loops over numpy scalars."""

import struct

import numpy as np

FP16, FP32 = np.float16, np.float32


def encode_slowly(values: np.ndarray) -> bytes:
    num_patches, width = values.shape
    center, unit = measure_slowly(values)
    tokens = scale_slowly(values, center, unit)
    outliers = choose_slowly(values, center, unit, tokens, min(24, num_patches // 24))
    deviations = (values - center.astype(FP32)) / tokens.astype(FP32)[:, None]
    zeros, scales = [], []
    codes = np.zeros((num_patches, width), dtype=np.uint8)
    for channel in range(width):
        kept = [deviations[token, channel] for token in range(num_patches) if token not in outliers]
        zero = half_at_most(min(kept))
        scale = half_at_least((max(kept) - FP32(zero)) / FP32(255))
        zeros.append(zero)
        scales.append(scale)
        step = FP32(scale) if scale > 0 else FP32(1)
        for token in range(num_patches):
            if token not in outliers:
                code = round(float((deviations[token, channel] - FP32(zero)) / step))
                codes[token, channel] = max(0, min(code, 255))
    furthest = max(
        max(abs(FP32(scale) * FP32(255) + FP32(zero)), abs(FP32(zero))) * max(tokens.astype(FP32))
        + abs(FP32(middle))
        for zero, scale, middle in zip(zeros, scales, center, strict=True)
    )
    head = struct.pack(f"<HH{len(outliers)}H", len(outliers), int(furthest > 32752), *outliers)
    head += b"\0" * (-len(head) % 64)
    rows = np.clip(values[outliers], -65504, 65504).astype(FP16)
    blocks = [center, np.array(zeros, FP16), np.array(scales, FP16), tokens, rows, codes]
    return head + b"".join(block.tobytes() for block in blocks)


def measure_slowly(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Center in fp16 and unit in fp32 of each channel, over tokens at equal distances."""
    sample = values[:: max(1, len(values) // 64)]
    centers, units = [], []
    for channel in range(values.shape[1]):
        ordered = sorted(sample[:, channel])
        unit = ordered[3 * len(ordered) // 4] - ordered[len(ordered) // 4]
        unit = unit if unit > 2**-24 else ordered[-1] - ordered[0]
        centers.append(max(-65504, min(65504, ordered[len(ordered) // 2])))
        units.append(unit if unit > 2**-24 else FP32(1))
    return np.array(centers, FP16) + FP16(0), np.array(units, FP32)


def in_eighths(value: np.float32, most: float) -> int:
    return round(float(min(abs(value), FP32(most)) * FP32(8)))


def scale_slowly(values: np.ndarray, center: np.ndarray, unit: np.ndarray) -> np.ndarray:
    in_units = (values - center.astype(FP32)) / unit
    sizes = [sum(in_eighths(value, 8.0) for value in row) for row in in_units]
    least = FP32(0.25) * FP32(sorted(sizes)[len(sizes) // 2])
    least = least if least > 0 else FP32(1)
    return np.array([min(max(FP32(size) / least * FP32(2), 2), 128) for size in sizes], FP16)


def choose_slowly(
    values: np.ndarray, center: np.ndarray, unit: np.ndarray, tokens: np.ndarray, count: int
) -> list[int]:
    scaled = (values - center.astype(FP32)) / unit / tokens.astype(FP32)[:, None]
    scores = [sum(int(FP32(in_eighths(value, 127.0) ** 2) ** 2) for value in row) for row in scaled]
    return sorted(sorted(range(len(values)), key=lambda token: (-scores[token], token))[:count])


def half_at_most(value: np.float32) -> np.float16:
    half = FP16(value)
    if FP32(half) > value:
        half = np.nextafter(half, FP16(-np.inf))
    return FP16(0) if half == 0 else half


def half_at_least(value: np.float32) -> np.float16:
    half = FP16(value)
    if FP32(half) < value:
        half = np.nextafter(half, FP16(np.inf))
    return FP16(0) if half == 0 else half


def decode_slowly(data: bytes, num_patches: int, width: int) -> np.ndarray:
    (count,) = struct.unpack_from("<H", data)
    outliers = struct.unpack_from(f"<{count}H", data, 4)
    start = -(-(4 + 2 * count) // 64) * 64
    halves = np.frombuffer(data, FP16, 3 * width + num_patches + count * width, start)
    center, zero, scale = halves[: 3 * width].reshape(3, width).astype(FP32)
    tokens = halves[3 * width : 3 * width + num_patches].astype(FP32)
    rows = halves[3 * width + num_patches :].reshape(count, width)
    codes = np.frombuffer(data, np.uint8, num_patches * width, start + halves.nbytes)
    codes = codes.reshape(num_patches, width)
    values = np.zeros((num_patches, width), dtype=FP16)
    for token in range(num_patches):
        for channel in range(width):
            deviation = FP32(codes[token, channel]) * scale[channel] + zero[channel]
            value = deviation * tokens[token] + center[channel]
            values[token, channel] = FP16(max(-65504, min(value, 65504)))
    for row, token in enumerate(outliers):
        values[token] = rows[row]
    return values
