"""Views of any number of tokens: pinned bytes, what comes back, and 5,000 mutations."""

import hashlib
import random
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from codec_views import opened, pinned_view

from operators.codec import RaggedCodec, count_tokens, decode_views
from operators.codec.ragged import HEAD_BYTES
from schemas.errors import CorruptError, RejectCode, SampleError

COUNTS = (0, 1, 24, 57, 96)
PATCHES, WIDTH = 96, 16
NUM_MUTATIONS = 5000
NAMES = ("compact", "fp16", "int8")
GOLDEN = {
    "fp16": "99139420896221525f00d62233c15dc8bd5b48dc1859159ae899666a862c603c",
    "int8": "78bb24e21af4f15e085fde3f43c1ee2331430bc26d1dcec6c91b2e90682989e8",
}


def views_of_counts() -> list[torch.Tensor]:
    return [pinned_view()[:count] for count in COUNTS]


def open_ragged(name: str) -> RaggedCodec:
    return RaggedCodec(opened(name, pinned_view()[None]))


def decode(codec: RaggedCodec, data: bytes) -> tuple[int, torch.Tensor]:
    """How many tokens there are, and what stands in the room of the longest view."""
    return count_tokens(data), decode_views(codec, [data], PATCHES, WIDTH)[0]


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_bytes_are_pinned(name: str) -> None:
    data = b"".join(open_ragged(name).encode_tokens(views_of_counts()))
    assert hashlib.sha256(data).hexdigest() == GOLDEN[name]


@pytest.mark.parametrize("name", NAMES)
def test_a_view_is_a_count_and_what_its_codec_writes(name: str) -> None:
    inner = opened(name, pinned_view()[None])
    for count, view, data in zip(
        COUNTS, views_of_counts(), RaggedCodec(inner).encode_tokens(views_of_counts()), strict=True
    ):
        assert data[:HEAD_BYTES] == count.to_bytes(4, "little") + bytes(60)
        assert data[HEAD_BYTES:] == (inner.encode(view[None])[0] if count else b"")


@pytest.mark.parametrize("name", NAMES)
def test_tokens_come_back_with_zeros_behind(name: str) -> None:
    codec = open_ragged(name)
    for view, data in zip(views_of_counts(), codec.encode_tokens(views_of_counts()), strict=True):
        count, decoded = decode(codec, data)
        assert count == len(view)
        assert not decoded[count:].any()
        if count:
            inner = opened(name, pinned_view()[None])
            alone = decode_views(inner, [data[HEAD_BYTES:]], count, WIDTH)[0]
            assert torch.equal(decoded[:count], alone)


def test_what_is_not_finite_is_refused() -> None:
    view = pinned_view()[:5].clone()
    view[2, 3] = float("nan")
    with pytest.raises(SampleError) as caught:
        open_ragged("int8").encode_tokens([view])
    assert caught.value.code is RejectCode.NOT_FINITE


def flip_head(data: bytearray, choose: random.Random) -> None:
    data[choose.randrange(HEAD_BYTES)] ^= 1 << choose.randrange(8)


def flip(data: bytearray, choose: random.Random) -> None:
    data[choose.randrange(len(data))] ^= 1 << choose.randrange(8)


def set_count(data: bytearray, choose: random.Random) -> None:
    data[:4] = choose.choice((0, 1, 23, 95, 96, 97, 2**31, 2**32 - 1)).to_bytes(4, "little")


def cut(data: bytearray, choose: random.Random) -> None:
    del data[choose.randrange(len(data)) :]


def lengthen(data: bytearray, choose: random.Random) -> None:
    data += choose.randbytes(choose.choice((1, 64, 500)))


def replace(data: bytearray, choose: random.Random) -> None:
    data[:] = choose.randbytes(choose.choice((0, 3, 64, 65, 3000)))


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    *(flip_head, flip, set_count),
    *(cut, lengthen, replace),
)


def test_5000_mutations_give_a_typed_error_or_tokens_in_their_room() -> None:
    """A codec keeps no checksum: what passes has a count that its length confirms, and zeros behind it."""
    choose = random.Random(11)
    codecs = {name: open_ragged(name) for name in NAMES}
    written = {name: codec.encode_tokens(views_of_counts()) for name, codec in codecs.items()}
    outcomes: Counter[str] = Counter()
    for number in range(NUM_MUTATIONS):
        name, place = choose.choice(NAMES), choose.randrange(len(COUNTS))
        data = bytearray(written[name][place])
        MUTATIONS[number % len(MUTATIONS)](data, choose)
        try:
            count, decoded = decode(codecs[name], bytes(data))
        except CorruptError:
            outcomes["refused"] += 1
            continue
        outcomes["read"] += 1
        assert not decoded[count:].any()
        if data == written[name][place]:
            outcomes["unchanged"] += 1
            assert torch.equal(decoded, decode(codecs[name], written[name][place])[1])
        elif name == "fp16":
            assert len(data) == HEAD_BYTES + 2 * WIDTH * count
            again = codecs[name].encode_tokens([decoded[:count]]) if decoded.isfinite().all() else [data]
            assert again == [data]
    assert outcomes["refused"] + outcomes["read"] == NUM_MUTATIONS
    assert outcomes["refused"] > 0.4 * NUM_MUTATIONS
    assert outcomes["read"] > outcomes["unchanged"] > 0
