"""The feature file: pinned bytes, one view read alone, and nothing but `CorruptError` for damaged ones."""

import hashlib
import struct

import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.feature_file import (
    PREFIX_BYTES,
    FeatureHeader,
    MediumShape,
    cut_views,
    measure_header,
    open_section,
    pack_features,
    read_header,
    view_range,
)
from schemas.errors import CorruptError, MismatchError

PAYLOADS = [bytes([index]) * length for index, length in enumerate([100, 5, 64, 0, 200, 33])]
CLASS_ROWS = (torch.arange(6 * 8).reshape(6, 8) / 4 - 3).half()
MEDIA = (MediumShape(1, 5), MediumShape(1, 1))
GOLDEN = "bf527c8077bc5a467ac1b8205ed6a98914e0e647ba93b0bb31a0e49a3fcc7de6"


def packed(num_views: int = 6, media: tuple[MediumShape, ...] = MEDIA) -> bytes:
    return pack_features(
        PAYLOADS[:num_views],
        CLASS_ROWS[:num_views],
        media=media,
        codec="int8",
        codec_version=1,
        num_patches=4,
        width=8,
    )


def packed_without_class_rows() -> bytes:
    return pack_features(PAYLOADS, None, media=MEDIA, codec="int8", codec_version=1, num_patches=4, width=8)


def read_view(data: bytes, header: FeatureHeader, index: int) -> tuple[bytes | None, bytes]:
    offset, length = view_range(header, index)
    section = open_section(header, index, data[offset : offset + length])
    row = section.class_row
    return None if row is None else row.numpy().tobytes(), bytes(section.payload)


def reseal(data: bytearray) -> bytes:
    """A damaged header with a checksum that fits, as a hostile writer would make it."""
    length = min(measure_header(data), len(data))
    digest = xxhash.xxh3_64_intdigest(bytes(data[: PREFIX_BYTES - 8] + data[PREFIX_BYTES:length]))
    struct.pack_into("<Q", data, PREFIX_BYTES - 8, digest)
    return bytes(data)


def test_bytes_are_pinned() -> None:
    assert hashlib.sha256(packed()).hexdigest() == GOLDEN


def test_layout_by_hand() -> None:
    """The drawing in the docstring, read with nothing but struct."""
    data = packed()
    assert data[:8] == b"\x891TFEAT\n"
    assert struct.unpack_from("<HHI", data, 8) == (1, 1, 2)
    assert data[16:32] == b"int8" + bytes(12)
    assert struct.unpack_from("<IIIIQ", data, 32) == (6, 4, 8, 0, len(data))
    assert struct.unpack_from("<4I", data, 64) == (1, 5, 1, 1)
    position = -(-(64 + 16 + 6 * 24) // 64) * 64
    for index, payload in enumerate(PAYLOADS):
        section = CLASS_ROWS[index].numpy().tobytes() + payload
        assert data[position : position + len(section)] == section
        entry = struct.unpack_from("<QQQ", data, 80 + 24 * index)
        assert entry == (position, len(section), xxhash.xxh3_64_intdigest(section))
        position += -(-len(section) // 64) * 64


def test_header_and_views_come_back() -> None:
    data = packed()
    header = read_header(data)
    assert (header.codec, header.codec_version, header.num_patches, header.width) == ("int8", 1, 4, 8)
    assert header.media == MEDIA
    assert header.num_bytes == len(data)
    assert all(view.offset % 64 == 0 for view in header.views)
    for index in range(6):
        assert read_view(data, header, index) == (CLASS_ROWS[index].numpy().tobytes(), PAYLOADS[index])


def test_without_class_rows_a_section_is_the_view() -> None:
    data = packed_without_class_rows()
    header = read_header(data)
    assert struct.unpack_from("<IIII", data, 32) == (6, 4, 8, 1)
    assert not header.has_class_rows
    assert [view.length for view in header.views] == [len(payload) for payload in PAYLOADS]
    assert [read_view(data, header, index) for index in range(6)] == [(None, one) for one in PAYLOADS]
    assert cut_views(header, memoryview(data)) == [memoryview(one) for one in PAYLOADS]


def test_the_header_needs_no_more_than_its_own_bytes() -> None:
    data = packed()
    length = measure_header(data[:PREFIX_BYTES])
    assert length < len(data)
    assert read_header(data[:length]) == read_header(data)
    with pytest.raises(CorruptError, match="ends inside its header"):
        read_header(data[: length - 1])


@pytest.mark.parametrize(
    ("num_views", "media"), [(5, MEDIA), (6, (MediumShape(1, 5),)), (0, ()), (0, (MediumShape(0, 1),))]
)
def test_views_that_do_not_fit_the_media_are_refused(num_views: int, media: tuple[MediumShape, ...]) -> None:
    with pytest.raises(MismatchError):
        packed(num_views, media)


@pytest.mark.parametrize("data", [packed(), packed_without_class_rows()], ids=["with rows", "without"])
def test_every_flipped_byte_is_found_or_harmless(data: bytes) -> None:
    header = read_header(data)
    found = 0
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x40
        try:
            seen = read_header(damaged)
            views = [read_view(bytes(damaged), seen, index) for index in range(6)]
        except CorruptError:
            found += 1
            continue
        assert seen == header
        assert views == [read_view(data, header, index) for index in range(6)]
    covered = header.header_bytes + sum(view.length for view in header.views)
    assert found == covered


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 2000),
    st.lists(st.tuples(st.integers(0, 800) | st.integers(0, 80), st.integers(0, 255)), max_size=4),
    st.booleans(),
)
def test_damage_is_corrupt_or_harmless(keep: int, changes: list[tuple[int, int]], sealed: bool) -> None:
    data = packed()
    damaged = bytearray(data[:keep])
    for position, value in changes:
        if position < len(damaged):
            damaged[position] = value
    try:
        raw = reseal(damaged) if sealed else bytes(damaged)
        header = read_header(raw)
        views = [read_view(raw, header, index) for index in range(len(header.views))]
    except CorruptError:
        return
    if not sealed:
        assert views == [read_view(data, read_header(data), index) for index in range(6)]


@pytest.mark.parametrize(
    ("offset", "form", "value", "message"),
    [
        (8, "<H", 2, "version 2"),
        (0, "<Q", 1, "no feature file"),
        (12, "<I", 2**32 - 1, "ends inside its header"),
        (32, "<I", 2**32 - 1, "ends inside its header"),
        (32, "<I", 5, "contradict"),
        (40, "<I", 2**31, "contradict"),
        (44, "<I", 2, "contradict"),
        (48, "<Q", 2**63, "contradict"),
        (64, "<I", 0, "contradict"),
        (80, "<Q", 2**64 - 64, "contradict"),
        (88, "<Q", 2**62, "contradict"),
    ],
)
def test_hostile_counts_are_refused_before_use(offset: int, form: str, value: int, message: str) -> None:
    data = bytearray(packed())
    struct.pack_into(form, data, offset, value)
    with pytest.raises(CorruptError, match=message):
        read_header(reseal(data) if message == "contradict" else bytes(data))
