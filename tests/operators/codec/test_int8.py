"""The int8 codec against its slow twin, its error bound, and what it does with outliers."""

import numpy as np
import pytest
import torch
from codec_views import pinned_view
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from int8_reference import decode_slowly, encode_slowly

from jobs.bench.feature_statistics import STATISTICS, draw_views
from operators.codec import decode_views
from operators.codec.int8 import Int8Codec
from schemas.errors import CorruptError

small_views = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 60), st.integers(1, 12)),
    elements=st.floats(-65504, 65504, width=32) | st.sampled_from([0.0, -0.0, 1.0, 65504.0, -65504.0, 6e-8]),
)


def coded(values: np.ndarray) -> tuple[bytes, np.ndarray]:
    (data,) = Int8Codec().encode(torch.from_numpy(values)[None])
    return data, decode_views(Int8Codec(), [data], *values.shape)[0].numpy()


@settings(max_examples=100, deadline=None)
@given(small_views)
def test_agrees_with_the_slow_twin(values: np.ndarray) -> None:
    data, decoded = coded(values)
    assert data == encode_slowly(values)
    assert decoded.tobytes() == decode_slowly(data, *values.shape).tobytes()


@pytest.mark.parametrize("kind", sorted(STATISTICS))
def test_agrees_with_the_slow_twin_on_features(kind: str) -> None:
    view = draw_views(STATISTICS[kind], 1, num_patches=144, width=24)[0].numpy()
    data, decoded = coded(view)
    assert data == encode_slowly(view)
    assert decoded.tobytes() == decode_slowly(data, 144, 24).tobytes()
    assert data[0] == 6


@settings(deadline=None)
@given(small_views)
def test_error_is_half_a_step(values: np.ndarray) -> None:
    """Half a step by the token's scale, the rounding of the result, and that of sums of large numbers."""
    data, decoded = coded(values)
    num_patches, width = values.shape
    start = 64 if num_patches // 24 <= 30 else 128
    halves = np.frombuffer(data, np.float16, 3 * width + num_patches, start).astype(np.float64)
    step, tokens = halves[2 * width : 3 * width], halves[3 * width :]
    largest = np.abs(values).max(axis=0).astype(np.float64) + np.abs(halves[:width])
    bound = np.outer(tokens, step) * 0.5001 + largest * 2**-10 + 2**-20
    assert np.isfinite(decoded).all()
    assert (np.abs(decoded.astype(np.float64) - values) <= bound).all()


@pytest.mark.parametrize("corruption", ["descending", "too_many", "too_few", "beyond", "flags"])
def test_a_bad_head_is_corrupt(corruption: str) -> None:
    data = bytearray(Int8Codec().encode(pinned_view()[None])[0])
    assert data[0] == 4
    data[0:8] = {
        "descending": bytes([4, 0, 0, 0, 9, 0, 8, 0]),
        "too_many": bytes([97, 0, 0, 0, 1, 0, 2, 0]),
        "too_few": bytes([3, 0, 0, 0, 1, 0, 2, 0]),
        "beyond": bytes([4, 0, 0, 0, 96, 0, 97, 0]),
        "flags": bytes([4, 0, 2, 0, 1, 0, 2, 0]),
    }[corruption]
    with pytest.raises(CorruptError):
        decode_views(Int8Codec(), [data], 96, 16)


def test_outlier_tokens_come_back_as_fp16() -> None:
    view = pinned_view()
    decoded = decode_views(Int8Codec(), Int8Codec().encode(view[None]), 96, 16)[0]
    assert torch.equal(decoded[[40, 77]], view[[40, 77]].half())
    assert (decoded[0] - view[0].half()).abs().max() < 16 / 255


def test_values_near_the_end_of_fp16_stay_finite() -> None:
    view = torch.linspace(-65504, 65504, 60 * 4).reshape(60, 4)
    (data,) = Int8Codec().encode(view[None])
    decoded = decode_views(Int8Codec(), [data], 60, 4)
    assert data[2] == 1
    assert torch.isfinite(decoded).all()
    assert Int8Codec().encode(pinned_view()[None])[0][2] == 0
