"""Feature files of every codec, mutated 5,000 times: the reader gives what was written, or a typed error."""

import random
import struct
from collections import Counter
from collections.abc import Callable

import pytest
import torch
import xxhash

from operators.codec import decode_views, identify_codec, open_codec
from operators.feature_file import (
    PREFIX_BYTES,
    MediumShape,
    check_size,
    check_views,
    cut_views,
    measure_header,
    pack_features,
    read_header,
)
from schemas.errors import CorruptError, MismatchError
from schemas.feature import ChannelStatistics

NUM_MUTATIONS = 5000
PATCHES, WIDTH = 48, 16
MEDIA = (MediumShape(1, 2), MediumShape(3, 1))
STATISTICS = ChannelStatistics(num_views=1, median=(0.0,) * WIDTH, spread=(1.349,) * WIDTH)
IDENTITIES = {name: identify_codec(name, statistics=STATISTICS) for name in ("fp16", "int8", "compact")}


def write(name: str, seed: int = 0) -> bytes:
    views = torch.randn(5, PATCHES, WIDTH, generator=torch.Generator().manual_seed(seed))
    identity = IDENTITIES[name]
    return pack_features(
        open_codec(identity).encode(views),
        views[:, 0].half(),
        media=MEDIA,
        codec=name,
        codec_version=identity.version,
        num_patches=PATCHES,
        width=views.shape[-1],
    )


def read(data: bytes, *, is_checked: bool = True) -> tuple[tuple[MediumShape, ...], torch.Tensor]:
    """As the reader does; unchecked: where the index vouches for whatever was written."""
    header = read_header(data)
    check_size(header, len(data))
    if header.codec not in IDENTITIES or (header.num_patches, header.width) != (PATCHES, WIDTH):
        raise MismatchError("another codec or shape")
    open_views = check_views if is_checked else cut_views
    codec = open_codec(IDENTITIES[header.codec])
    return header.media, decode_views(codec, open_views(header, memoryview(data)), PATCHES, WIDTH)


def flip(data: bytearray, choose: random.Random) -> None:
    for _ in range(choose.choice((1, 1, 2, 9))):
        data[choose.randrange(len(data))] ^= 1 << choose.randrange(8)


def flip_header(data: bytearray, choose: random.Random) -> None:
    data[choose.randrange(PREFIX_BYTES + 200)] = choose.randrange(256)


def cut(data: bytearray, choose: random.Random) -> None:
    del data[choose.randrange(len(data)) :]


def insert(data: bytearray, choose: random.Random) -> None:
    place = choose.randrange(len(data))
    data[place:place] = choose.randbytes(choose.choice((1, 64, 500)))


def swap(data: bytearray, choose: random.Random) -> None:
    one, other = choose.randrange(len(data)), choose.randrange(len(data))
    data[one : one + 64], data[other : other + 64] = data[other : other + 64], data[one : one + 64]


def splice(data: bytearray, choose: random.Random) -> None:
    foreign = write(choose.choice(sorted(IDENTITIES)), seed=1)
    place = choose.randrange(PREFIX_BYTES, min(len(data), len(foreign)))
    data[place:] = foreign[place:]


def replace(data: bytearray, choose: random.Random) -> None:
    data[:] = choose.randbytes(choose.choice((0, 3, 64, 5000)))


def reseal(data: bytearray, choose: random.Random) -> None:
    """What a hostile writer would do: another header, and a checksum that fits."""
    struct.pack_into(
        "<I", data, choose.choice((12, 32, 36, 40, 44, 48, 64, 68, 72, 80)), choose.getrandbits(32)
    )
    length = min(measure_header(data), len(data))
    digest = xxhash.xxh3_64_intdigest(bytes(data[: PREFIX_BYTES - 8] + data[PREFIX_BYTES:length]))
    struct.pack_into("<Q", data, PREFIX_BYTES - 8, digest)


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    *(flip, flip_header, cut, insert),
    *(swap, splice, replace, reseal),
)


@pytest.mark.parametrize("name", sorted(IDENTITIES))
def test_what_was_written_comes_back(name: str) -> None:
    media, views = read(write(name))
    assert media == MEDIA
    assert torch.equal(views, read(write(name), is_checked=False)[1])
    wanted = torch.randn(5, PATCHES, WIDTH, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(views.float(), wanted, atol=0.1)


def test_5000_mutations_give_a_typed_error_or_what_was_written() -> None:
    choose = random.Random(7)
    written = {name: write(name) for name in IDENTITIES}
    wanted = {name: read(data) for name, data in written.items()}
    outcomes: Counter[str] = Counter()
    for number in range(NUM_MUTATIONS):
        name = choose.choice(sorted(IDENTITIES))
        data = bytearray(written[name])
        mutate = MUTATIONS[number % len(MUTATIONS)]
        try:
            mutate(data, choose)
            read(bytes(data), is_checked=False)
            media, views = read(bytes(data))
        except (CorruptError, MismatchError):
            outcomes["refused"] += 1
            continue
        outcomes["read"] += 1
        if mutate is not reseal:
            assert (media, views.shape) == (MEDIA, wanted[name][1].shape)
            assert torch.equal(views, wanted[name][1]), (number, mutate.__name__)
    assert sum(outcomes.values()) == NUM_MUTATIONS
    assert outcomes["refused"] > 0.8 * NUM_MUTATIONS
    assert outcomes["read"] > 0
