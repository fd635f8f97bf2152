"""What every codec keeps to, the int8 codec against its slow twin, and the fidelity that is promised."""

import dataclasses
import hashlib

import numpy as np
import pytest
import torch
from feature_statistics import STATISTICS, draw_views, measure_fidelity
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from int8_reference import decode_slowly, encode_slowly

from operators.codec import CODECS, codec_named, decode_views
from operators.codec.int8 import Int8Codec
from schemas.errors import CorruptError, MismatchError, RejectCode, SampleError

GOLDEN = {
    "fp16": "114c5db951f898d62b7d6e6944296921a663b4602a98672a11d242f979c610f4",
    "int8": "70611514beecf6d5e2495948ee0d8b324295866b6567eed3fa5a260143ffde1d",
}

small_views = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 60), st.integers(1, 12)),
    elements=st.floats(-65504, 65504, width=32) | st.sampled_from([0.0, -0.0, 1.0, 65504.0, -65504.0, 6e-8]),
)


def pinned_view() -> torch.Tensor:
    """Exact in fp16 and free of any generator: a formula, with two outlier tokens and a constant channel."""
    index = torch.arange(96 * 16, dtype=torch.int64)
    view = ((index * 7919 % 1013).float() / 64 - 8).reshape(96, 16)
    view[:, 3] = 0.1
    view[40] += 500.0
    view[77, 5] = -3000.0
    return view


@pytest.mark.parametrize("name", sorted(CODECS))
def test_bytes_are_pinned(name: str) -> None:
    assert hashlib.sha256(CODECS[name].encode_view(pinned_view())).hexdigest() == GOLDEN[name]


@pytest.mark.parametrize("name", sorted(CODECS))
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 65520.0, -70000.0])
def test_values_beyond_fp16_are_refused(name: str, bad: float) -> None:
    view = pinned_view()
    view[3, 7] = bad
    with pytest.raises(SampleError, match="1 of 1536") as caught:
        CODECS[name].encode_view(view)
    assert caught.value.code is RejectCode.NOT_FINITE


@pytest.mark.parametrize("name", sorted(CODECS))
@pytest.mark.parametrize("change", [lambda d: d[:-1], lambda d: d + b"\0", lambda d: b"", lambda d: d[:70]])
def test_another_length_is_corrupt(name: str, change) -> None:
    data = CODECS[name].encode_view(pinned_view())
    with pytest.raises(CorruptError):
        CODECS[name].decode_view(change(data), 96, 16)


def test_unknown_codecs_are_named() -> None:
    with pytest.raises(MismatchError, match="known are fp16, int8"):
        codec_named("zip")
    with pytest.raises(MismatchError, match=r"version 1.*made with 2"):
        codec_named("int8", 2)
    assert codec_named("int8", 1) is CODECS["int8"]


@pytest.mark.parametrize("name", sorted(CODECS))
def test_several_views_decode_as_one_by_one(name: str) -> None:
    codec = CODECS[name]
    views = draw_views("severe", 3, num_patches=48, width=16)
    payloads = [codec.encode_view(view) for view in views]
    together = decode_views(codec, payloads, 48, 16)
    assert all(torch.equal(together[i], codec.decode_view(payloads[i], 48, 16)) for i in range(3))
    assert torch.equal(together[1], codec.decode_view(memoryview(payloads[1]), 48, 16))
    assert decode_views(codec, [], 48, 16).shape == (0, 48, 16)


@given(small_views)
def test_fp16_is_exact_for_fp16(values: np.ndarray) -> None:
    half = torch.from_numpy(values).half()
    decoded = codec_named("fp16").decode_view(codec_named("fp16").encode_view(half), *half.shape)
    assert torch.equal(decoded.view(torch.int16), half.view(torch.int16))


@settings(max_examples=60, deadline=None)
@given(small_views)
def test_int8_agrees_with_the_slow_twin(values: np.ndarray) -> None:
    data = Int8Codec().encode_view(torch.from_numpy(values))
    assert data == encode_slowly(values)
    decoded = Int8Codec().decode_view(data, *values.shape).numpy()
    assert decoded.tobytes() == decode_slowly(data, *values.shape).tobytes()


def test_int8_agrees_with_the_slow_twin_on_features() -> None:
    view = draw_views("severe", 1, num_patches=144, width=24)[0]
    data = Int8Codec().encode_view(view)
    assert data == encode_slowly(view.numpy())
    assert data[0] == 6


@settings(deadline=None)
@given(small_views)
def test_int8_error_is_half_a_step(values: np.ndarray) -> None:
    """Half of (range / 255, widened by the fp16 rounding of both ends), and the rounding of the result."""
    decoded = Int8Codec().decode_view(Int8Codec().encode_view(torch.from_numpy(values)), *values.shape)
    error = np.abs(decoded.numpy().astype(np.float64) - values)
    spread = values.max(axis=0).astype(np.float64) - values.min(axis=0)
    largest = np.abs(values).max(axis=0).astype(np.float64)
    bound = spread / 510 * (1 + 2**-9) + largest * 2**-9 + 2**-22
    assert np.isfinite(decoded.numpy()).all()
    assert (error <= bound).all()


@pytest.mark.parametrize("corruption", ["descending", "too_many", "beyond"])
def test_bad_outlier_rows_are_corrupt(corruption: str) -> None:
    data = bytearray(Int8Codec().encode_view(pinned_view()))
    assert data[0] == 4
    data[0:6] = {
        "descending": bytes([4, 0, 9, 0, 8, 0]),
        "too_many": bytes([97, 0, 1, 0, 2, 0]),
        "beyond": bytes([4, 0, 96, 0, 97, 0]),
    }[corruption]
    with pytest.raises(CorruptError):
        Int8Codec().decode_view(data, 96, 16)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_foreign_bytes_are_corrupt_or_decode(data: st.DataObject) -> None:
    codec = data.draw(st.sampled_from(sorted(CODECS)))
    encoded = bytearray(CODECS[codec].encode_view(pinned_view()))
    for _ in range(data.draw(st.integers(1, 4))):
        encoded[data.draw(st.integers(0, len(encoded) - 1) | st.integers(0, 12))] = data.draw(
            st.integers(0, 255)
        )
    try:
        decoded = CODECS[codec].decode_view(encoded, 96, 16)
    except CorruptError:
        return
    assert decoded.shape == (96, 16)


def test_outlier_tokens_come_back_as_fp16() -> None:
    view = pinned_view()
    decoded = Int8Codec().decode_view(Int8Codec().encode_view(view), 96, 16)
    assert torch.equal(decoded[[40, 77]], view[[40, 77]].half())
    assert (decoded[0] - view[0].half()).abs().max() < 16 / 255


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("name", sorted(CODECS))
def test_a_gpu_writes_the_same_bytes(name: str) -> None:
    views = [pinned_view(), *draw_views("severe", 2)]
    assert [CODECS[name].encode_view(view.cuda()) for view in views] == [
        CODECS[name].encode_view(view) for view in views
    ]


@pytest.mark.parametrize("name", sorted(STATISTICS))
def test_int8_fidelity(name: str) -> None:
    views = draw_views(name, 3)
    codec = Int8Codec()
    payloads = [codec.encode_view(view) for view in views]
    fidelity = measure_fidelity(views, decode_views(codec, payloads, 576, 1024))
    assert max(len(payload) for payload in payloads) <= 0.55 * 2 * 576 * 1024
    assert fidelity.raw_cosine >= 0.9999
    assert fidelity.normalized_cosine >= 0.9998
    assert fidelity.channel_nrmse <= 0.02


def test_int8_fidelity_falls_where_token_norms_vary(monkeypatch: pytest.MonkeyPatch) -> None:
    """A known limit, pinned from both sides: at a log-normal spread of .3 the promise of .9998 is missed."""
    monkeypatch.setitem(STATISTICS, "heavy", dataclasses.replace(STATISTICS["heavy"], tail=0.3))
    views = draw_views("heavy", 3)
    codec = Int8Codec()
    decoded = decode_views(codec, [codec.encode_view(view) for view in views], 576, 1024)
    fidelity = measure_fidelity(views, decoded)
    assert 0.9997 < fidelity.normalized_cosine < 0.9998
    assert fidelity.raw_cosine >= 0.9999
    assert fidelity.channel_nrmse <= 0.02


def test_without_outlier_rows_the_severe_statistics_fail() -> None:
    """The gate sees what it is there for: a plain affine codec ruins channels on ordinary tokens."""
    views = draw_views("severe", 1)
    low, high = views.amin(dim=1, keepdim=True), views.amax(dim=1, keepdim=True)
    step = (high - low) / 255
    plain = low + ((views - low) / step).round() * step
    fidelity = measure_fidelity(views, plain)
    assert fidelity.raw_cosine > 0.9998
    assert fidelity.channel_nrmse > 0.05
