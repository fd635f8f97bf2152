"""What every codec keeps to: pinned bytes, typed errors, one view or several, the promised fidelity."""

import hashlib
from importlib.metadata import EntryPoint, EntryPoints

import pytest
import torch
import zstandard
from codec_views import opened, pinned_view, statistics_of
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import operators.codec
from jobs.bench.feature_statistics import STATISTICS, Statistics, draw_views
from operators.codec import CODECS, decode_views, find_kind, identify_codec, open_codec
from operators.codec.fp16 import FP16_KIND
from operators.fidelity import measure_fidelity
from pipelines.stream.used_rooms import UsedRooms
from schemas.errors import CorruptError, MismatchError, RejectCode, SampleError

GOLDEN = {
    "compact": "449c3a7a3f269e2a5a971d5778cc20da57baa4847c29a8f2a04d3b2dfe1504ac",
    "fp16": "114c5db951f898d62b7d6e6944296921a663b4602a98672a11d242f979c610f4",
    "int8": "d76303fb77e093e9233c9486f5a9a201d74d9f5d9e0fa2dc2d866ed157b572d2",
}
GOLDEN_ZSTD = (1, 5, 7)
NAMES = sorted(CODECS)


@pytest.mark.parametrize("name", NAMES)
def test_bytes_are_pinned(name: str) -> None:
    view = pinned_view()[None]
    (data,) = opened(name, view).encode(view)
    if name == "compact" and zstandard.ZSTD_VERSION != GOLDEN_ZSTD:
        pytest.skip(f"pinned with zstd {GOLDEN_ZSTD}; another release packs the same symbols otherwise")
    assert hashlib.sha256(data).hexdigest() == GOLDEN[name]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 65520.0, -70000.0])
def test_values_beyond_fp16_are_refused(name: str, bad: float) -> None:
    views = pinned_view()[None].clone()
    codec = opened(name, views)
    views[0, 3, 7] = bad
    with pytest.raises(SampleError, match="1 of 1536") as caught:
        codec.encode(views)
    assert caught.value.code is RejectCode.NOT_FINITE


@pytest.mark.parametrize("name", NAMES)
def test_the_last_values_that_fp16_rounds_to_are_kept(name: str) -> None:
    views = pinned_view()[None].clone()
    views[0, 3, 7] = 65519.0
    codec = opened(name, views)
    decoded = decode_views(codec, codec.encode(views), 96, 16)
    assert torch.isfinite(decoded).all()
    assert decoded[0, 3, 7] > 65000


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("change", [lambda d: d[:-1], lambda d: d + b"\0", lambda d: b"", lambda d: d[:70]])
def test_another_length_is_corrupt(name: str, change) -> None:
    views = pinned_view()[None]
    codec = opened(name, views)
    (data,) = codec.encode(views)
    with pytest.raises(CorruptError):
        decode_views(codec, [change(data)], 96, 16)


@pytest.mark.parametrize("name", NAMES)
def test_several_views_are_coded_as_one_by_one(name: str) -> None:
    views = draw_views(STATISTICS["severe"], 3, num_patches=48, width=32)
    codec = opened(name, views)
    payloads = codec.encode(views)
    assert payloads == [codec.encode(view[None])[0] for view in views]
    together = decode_views(codec, payloads, 48, 32)
    alone = [decode_views(codec, [memoryview(payload)], 48, 32)[0] for payload in payloads]
    assert torch.equal(together, torch.stack(alone))
    assert decode_views(codec, [], 48, 32).shape == (0, 48, 32)
    assert codec.encode(views[:0]) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_view_is_decoded_from_where_it_stands_and_left_as_it_was(name: str) -> None:
    """In memory that may be written to, as a reader's, at any place; as from bytes."""
    view = pinned_view()[None]
    codec = opened(name, view)
    (data,) = codec.encode(view)
    wanted = decode_views(codec, [data], 96, 16)
    for offset in (0, 2, 64):
        room = bytearray(offset) + data
        assert torch.equal(decode_views(codec, [memoryview(room)[offset:]], 96, 16), wanted)
        assert room[offset:] == data


@pytest.mark.parametrize("name", NAMES)
def test_inference_tensors_and_other_dtypes_are_taken(name: str) -> None:
    views = draw_views(STATISTICS["nominal"], 2, num_patches=48, width=32).half()
    codec = opened(name, views)
    with torch.inference_mode():
        made = [codec.encode(given) for given in (views.float() + 0, views.double() + 0, views + 0)]
    assert made[0] == made[1] == made[2]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_foreign_bytes_are_corrupt_or_decode(data: st.DataObject) -> None:
    views = pinned_view()[None]
    codec = opened(data.draw(st.sampled_from(NAMES)), views)
    encoded = bytearray(codec.encode(views)[0])
    for _ in range(data.draw(st.integers(1, 4))):
        encoded[data.draw(st.integers(0, len(encoded) - 1) | st.integers(0, 12))] = data.draw(
            st.integers(0, 255)
        )
    try:
        decoded = decode_views(codec, [encoded[: data.draw(st.integers(0, 99999))]], 96, 16)
    except CorruptError:
        return
    assert decoded.shape == (1, 96, 16)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("name", NAMES)
def test_a_gpu_writes_and_reads_the_same(name: str) -> None:
    views = draw_views(STATISTICS["severe"], 40)
    codec = opened(name, views)
    payloads = codec.encode(views)
    assert codec.encode(views.cuda()) == payloads
    decoded = decode_views(codec, payloads, 576, 1024, torch.device("cuda"))
    assert torch.equal(decoded.cpu(), decode_views(codec, payloads, 576, 1024))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("name", NAMES)
def test_a_gpu_copies_from_memory_that_is_pinned(name: str) -> None:
    views = draw_views(STATISTICS["severe"], 40)
    codec = opened(name, views)
    rooms, payloads = UsedRooms(is_pinned=True), codec.encode(views)
    pinned = [rooms.take(len(payload)) for payload in payloads]
    for room, payload in zip(pinned, payloads, strict=True):
        room[:] = payload
    decoded = decode_views(codec, pinned, 576, 1024, torch.device("cuda"))
    for room in pinned:
        room[:] = bytes(len(room))
    assert torch.equal(decoded.cpu(), decode_views(codec, payloads, 576, 1024))


@pytest.fixture(scope="module")
def drawn() -> dict[str, torch.Tensor]:
    """Views of every kind; the first four are what corpus statistics are taken from."""
    return {name: draw_views(statistics, 6) for name, statistics in STATISTICS.items()}


@pytest.mark.parametrize("kind", sorted(STATISTICS))
@pytest.mark.parametrize(
    ("name", "step", "largest"),
    [("fp16", None, 1.0), ("int8", None, 0.55), ("compact", None, 0.35), ("compact", 0.2, 0.29)],
)
def test_fidelity_and_size_are_as_promised(
    drawn: dict[str, torch.Tensor], name: str, step: float | None, largest: float, kind: str
) -> None:
    views = drawn[kind][4:]
    identity = identify_codec(name, step, statistics_of(drawn[kind][:4]))
    promise = find_kind(name).promise
    assert promise is not None
    codec = open_codec(identity)
    payloads = codec.encode(views)
    fidelity = measure_fidelity(views, decode_views(codec, payloads, 576, 1024))
    assert fidelity.find_shortfalls(promise(identity)) == []
    assert max(len(payload) for payload in payloads) <= largest * 2 * 576 * 1024


@pytest.mark.parametrize("spread", [0.3, 0.5])
def test_int8_keeps_its_promise_where_token_norms_vary(spread: float) -> None:
    statistics = Statistics(rank=256, noise=0.8, massive=50.0, outlier=30.0, norm_spread=spread)
    views = draw_views(statistics, 2)
    identity = identify_codec("int8")
    codec = open_codec(identity)
    fidelity = measure_fidelity(views, decode_views(codec, codec.encode(views), 576, 1024))
    promise = find_kind("int8").promise
    assert promise is not None
    assert fidelity.find_shortfalls(promise(identity)) == []


def test_the_gate_sees_what_it_is_there_for(drawn: dict[str, torch.Tensor]) -> None:
    """Eight bits by the range of each token: raw cosine hardly shows what becomes of all other channels."""
    views = drawn["severe"][4:]
    step = views.abs().amax(dim=2, keepdim=True) / 127
    fidelity = measure_fidelity(views, (views / step).round() * step)
    assert fidelity.worst_raw_cosine > 0.99
    assert fidelity.worst_normalized_cosine < 0.9
    assert fidelity.channel_nrmse > 0.5


def test_unknown_codecs_and_versions_are_named() -> None:
    with pytest.raises(MismatchError, match="known are compact, fp16, int8"):
        find_kind("zip")
    other = identify_codec("int8").model_copy(update={"version": 9})
    with pytest.raises(MismatchError, match=r"version 2.*made with 9"):
        open_codec(other)
    with pytest.raises(MismatchError, match="no quality step"):
        identify_codec("int8", 0.2)
    with pytest.raises(MismatchError, match="needs statistics"):
        open_codec(identify_codec("compact"))
    with pytest.raises(MismatchError, match=r"a step from 0\.01 to 1, not 3"):
        open_codec(identify_codec("compact", 3.0, statistics_of(pinned_view()[None])))


def test_packages_bring_codecs(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("plain", "operators.codec.fp16:FP16_KIND", operators.codec.ENTRY_POINTS)
    wrong = EntryPoint("wrong", "operators.codec.fp16:Fp16Codec", operators.codec.ENTRY_POINTS)
    monkeypatch.setattr(operators.codec, "entry_points", lambda group: EntryPoints([point, wrong]))
    assert find_kind("plain") is FP16_KIND
    identity = identify_codec("plain")
    views = pinned_view()[None]
    assert open_codec(identity).encode(views) == open_codec(identify_codec("fp16")).encode(views)
    with pytest.raises(MismatchError, match="no CodecKind"):
        find_kind("wrong")
    with pytest.raises(MismatchError, match="compact, fp16, int8, plain, wrong"):
        find_kind("zip")


@given(
    hnp.arrays(
        "f4", st.tuples(st.integers(1, 60), st.integers(1, 12)), elements=st.floats(-65504, 65504, width=32)
    )
)
def test_fp16_is_exact_for_fp16(values) -> None:
    half = torch.from_numpy(values).half()[None]
    codec = open_codec(identify_codec("fp16"))
    decoded = decode_views(codec, codec.encode(half), *half.shape[1:])
    assert torch.equal(decoded.view(torch.int16), half.view(torch.int16))
