"""The int8 codec again, slow and plain: Python loops over numpy scalars."""

import struct

import numpy as np

FP16 = np.float16


def encode_slowly(values: np.ndarray) -> bytes:
    num_patches, width = values.shape
    outliers = choose_slowly(values, min(24, num_patches // 24))
    zeros, scales = [], []
    codes = np.zeros((num_patches, width), dtype=np.uint8)
    for channel in range(width):
        kept = [values[token, channel] for token in range(num_patches) if token not in outliers]
        zero = half_at_most(min(kept))
        scale = half_at_least((np.float32(max(kept)) - np.float32(zero)) / np.float32(255))
        zeros.append(zero)
        scales.append(scale)
        step = np.float32(scale) if scale > 0 else np.float32(1)
        for token in range(num_patches):
            if token not in outliers:
                code = round(float((values[token, channel] - np.float32(zero)) / step))
                codes[token, channel] = max(0, min(code, 255))
    head = struct.pack(f"<H{len(outliers)}H", len(outliers), *outliers)
    head += b"\0" * (-len(head) % 64)
    rows = values[outliers].astype(FP16)
    return (
        head
        + np.array(zeros, FP16).tobytes()
        + np.array(scales, FP16).tobytes()
        + rows.tobytes()
        + codes.tobytes()
    )


def choose_slowly(values: np.ndarray, count: int) -> list[int]:
    num_patches, width = values.shape
    deviations = np.zeros((num_patches, width), dtype=np.float32)
    for channel in range(width):
        ordered = sorted(values[:, channel])
        spread = ordered[3 * num_patches // 4] - ordered[num_patches // 4]
        if spread == 0:
            spread = ordered[-1] - ordered[0]
        if spread == 0:
            spread = np.float32(1)
        for token in range(num_patches):
            deviations[token, channel] = abs(values[token, channel] - ordered[num_patches // 2]) / spread
    scores = [sum(float(d) for d in sorted(row)[-8:]) for row in deviations]
    return sorted(sorted(range(num_patches), key=lambda token: (-scores[token], token))[:count])


def half_at_most(value: np.float32) -> np.float16:
    half = FP16(value)
    if np.float32(half) > value:
        half = np.nextafter(half, FP16(-np.inf))
    return FP16(0) if half == 0 else half


def half_at_least(value: np.float32) -> np.float16:
    half = FP16(value)
    if np.float32(half) < value:
        half = np.nextafter(half, FP16(np.inf))
    return FP16(0) if half == 0 else half


def decode_slowly(data: bytes, num_patches: int, width: int) -> np.ndarray:
    (count,) = struct.unpack_from("<H", data)
    outliers = struct.unpack_from(f"<{count}H", data, 2)
    start = -(-(2 + 2 * count) // 64) * 64
    halves = np.frombuffer(data, FP16, (2 + count) * width, start).reshape(2 + count, width)
    codes = np.frombuffer(data, np.uint8, num_patches * width, start + halves.nbytes).reshape(
        num_patches, width
    )
    values = np.zeros((num_patches, width), dtype=FP16)
    for token in range(num_patches):
        for channel in range(width):
            zero, scale = np.float32(halves[0, channel]), np.float32(halves[1, channel])
            value = zero + scale * np.float32(codes[token, channel])
            values[token, channel] = FP16(min(value, np.float32(65504)))
    for row, token in enumerate(outliers):
        values[token] = halves[2 + row]
    return values
