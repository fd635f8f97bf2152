"""The compact codec against its slow twin, its escapes, and frames that lie."""

import hashlib
import struct

import numpy as np
import pytest
import torch
import zstandard
from codec_views import opened, pinned_view, statistics_of
from compact_reference import Plain, dequantize_slowly, quantize_slowly, unpack_slowly
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jobs.bench.feature_statistics import STATISTICS, draw_views
from operators.codec import decode_views, identify_codec, open_codec
from operators.codec.compact import CompactCodec
from operators.fidelity import measure_fidelity
from schemas.errors import CorruptError, MismatchError
from schemas.feature import ChannelStatistics

GOLDEN_PLAIN = "4d4be20fe52ca7f0a7c0587b4cd33ea3a76608acbde5f5564fbbcf3ba6fcd75b"
"""Of the parts before zstd: the same with any release of it."""

small_views = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 12), st.just(6)),
    elements=st.floats(-65504, 65504, width=32) | st.floats(-4, 4, width=32),
)
STEADY = ChannelStatistics(
    num_views=1, median=(0.0, 1.0, -2.5, 100.0, 0.01, 0.0), spread=(1, 2, 0.5, 9, 0.01, 70)
)


def same(one: Plain, other: Plain) -> bool:
    return (
        one.places == other.places
        and [value.tobytes() for value in one.values] == [value.tobytes() for value in other.values]
        and one.steps.tobytes() == other.steps.tobytes()
        and one.symbols.tobytes() == other.symbols.tobytes()
    )


def check_against_twin(
    codec: CompactCodec, values: np.ndarray, step: float, known: ChannelStatistics
) -> Plain:
    median, spread = np.array(known.median, np.float32), np.array(known.spread, np.float32)
    (data,) = codec.encode(torch.from_numpy(values)[None])
    plain = unpack_slowly(data, *values.shape)
    assert same(plain, quantize_slowly(values, step, median, spread))
    decoded = decode_views(codec, [data], *values.shape)[0].numpy()
    assert decoded.tobytes() == dequantize_slowly(plain, median, spread).tobytes()
    return plain


@settings(max_examples=100, deadline=None)
@given(small_views, st.sampled_from([0.05, 0.1, 0.35, 1.0]))
@example(np.array([[0.625, 13, -3.4375, 13, 13, 0]], np.float32), 0.05)
def test_agrees_with_the_slow_twin(values: np.ndarray, step: float) -> None:
    check_against_twin(CompactCodec(step, STEADY), values, step, STEADY)


@pytest.mark.parametrize("kind", sorted(STATISTICS))
def test_agrees_with_the_slow_twin_on_features(kind: str) -> None:
    views = draw_views(STATISTICS[kind], 3, num_patches=100, width=32)
    known = statistics_of(views[:2])
    plain = check_against_twin(CompactCodec(0.1, known), views[2].numpy(), 0.1, known)
    assert bool(plain.places) == (kind != "clip_rand")


def test_parts_before_zstd_are_pinned() -> None:
    view = pinned_view()[None]
    plain = unpack_slowly(opened("compact", view).encode(view)[0], 96, 16)
    assert plain.places
    values = np.array(plain.values)
    parts = [np.array(plain.places, "<u4").tobytes(), values.tobytes(), plain.steps.tobytes()]
    assert hashlib.sha256(b"".join([*parts, plain.symbols.tobytes()])).hexdigest() == GOLDEN_PLAIN


def test_escaped_values_come_back_as_fp16() -> None:
    view = pinned_view()
    codec = opened("compact", view[None])
    decoded = decode_views(codec, codec.encode(view[None]), 96, 16)[0]
    assert decoded[77, 5] == -3000


def test_smaller_steps_are_more_faithful_and_larger() -> None:
    views = draw_views(STATISTICS["nominal"], 2, num_patches=144, width=256)
    sizes, cosines = [], []
    for step in (0.05, 0.1, 0.2, 0.35):
        codec = opened("compact", views, step)
        payloads = codec.encode(views)
        sizes.append(sum(map(len, payloads)))
        cosines.append(
            measure_fidelity(views, decode_views(codec, payloads, 144, 256)).worst_normalized_cosine
        )
    assert sizes == sorted(sizes, reverse=True)
    assert cosines == sorted(cosines, reverse=True)
    assert cosines[0] > 0.9997 > cosines[-1]


def test_statistics_of_another_width_are_refused() -> None:
    codec = opened("compact", pinned_view()[None])
    with pytest.raises(MismatchError, match="of 16 channels, the features have 8"):
        codec.encode(torch.zeros(1, 96, 8))
    with pytest.raises(MismatchError, match="of 16 channels, the features have 8"):
        decode_views(codec, [b""], 96, 8)


def resealed(data: bytes, frame: bytes, places: tuple[int, ...] | None = None) -> bytes:
    (count,) = struct.unpack_from("<I", data)
    start = 4 + 6 * count + 2 * 96
    head = (
        data[:start]
        if places is None
        else data[:4] + struct.pack(f"<{count}I", *places) + data[4 + 4 * count : start]
    )
    return head + frame


@pytest.mark.parametrize(
    "frame",
    [
        zstandard.compress(bytes(96 * 16 + 1)),
        zstandard.compress(bytes(2**24)),
        zstandard.ZstdCompressor(write_content_size=False).compress(bytes(96 * 16)),
        zstandard.compress(bytes(96 * 16)) + zstandard.compress(bytes(96 * 16)),
        zstandard.compress(bytes(96 * 16))[:-3],
        b"no frame at all",
    ],
    ids=["one more", "bomb", "no size", "two", "cut", "foreign"],
)
def test_frames_that_lie_are_corrupt(frame: bytes) -> None:
    view = pinned_view()[None]
    codec = opened("compact", view)
    data = codec.encode(view)[0]
    assert torch.isfinite(
        decode_views(codec, [resealed(data, zstandard.compress(bytes(96 * 16)))], 96, 16)
    ).all()
    with pytest.raises(CorruptError):
        decode_views(codec, [resealed(data, frame)], 96, 16)


def test_bad_places_are_corrupt() -> None:
    view = pinned_view()[None].clone()
    view[0, 12, 5] = 3000.0
    codec = opened("compact", view)
    data = codec.encode(view)[0]
    places = unpack_slowly(data, 96, 16).places
    assert len(places) >= 2
    frame = zstandard.compress(bytes(96 * 16))
    for bad in (places[::-1], [*places[:-1], 96 * 16], [*places[:-1], 2**32 - 1], [places[0], *places[:-1]]):
        with pytest.raises(CorruptError, match="ascending places"):
            decode_views(codec, [resealed(data, frame, tuple(bad))], 96, 16)


def test_the_release_of_zstd_is_part_of_the_identity() -> None:
    known = statistics_of(pinned_view()[None])
    identity = identify_codec("compact", statistics=known)
    assert identity.library == "zstd " + ".".join(map(str, zstandard.ZSTD_VERSION))
    assert identity.step == 0.1
    other = identity.model_copy(update={"library": "zstd 1.4.0"})
    view = pinned_view()[None]
    assert torch.equal(
        decode_views(open_codec(other), open_codec(identity).encode(view), 96, 16),
        decode_views(open_codec(identity), open_codec(identity).encode(view), 96, 16),
    )
