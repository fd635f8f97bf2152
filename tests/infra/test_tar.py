"""Shards: byte-equal to Python's tarfile, read by everybody, and found out when damaged."""

import hashlib
import io
import subprocess
import tarfile
from pathlib import Path

import pytest
import webdataset
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.tar import WRITE_BYTES, Member, pack_index, read_index, scan_tar, write_shard
from schemas.errors import CorruptError, WorkError

MEMBERS = [
    ("0a.feat.bin", bytes(range(256)) * 5),
    ("0a.json", b'{"media":[]}'),
    ("1b.feat.bin", b""),
    ("1b.json", b"{}" * 256),
]
names = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,98}\Z")
shards = st.dictionaries(names, st.binary(max_size=1200), max_size=6).map(lambda found: sorted(found.items()))


def write(members: list[tuple[str, bytes]]) -> tuple[bytes, tuple[Member, ...]]:
    file = io.BytesIO()
    written = write_shard(members, file)
    data = file.getvalue()
    assert written.sha256 == hashlib.sha256(data).hexdigest()
    assert written.num_bytes == len(data)
    return data, written.members


def write_with_tarfile(members: list[tuple[str, bytes]]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


@settings(deadline=None)
@given(shards)
def test_bytes_are_those_of_tarfile(members: list[tuple[str, bytes]]) -> None:
    data, rows = write(members)
    assert data == write_with_tarfile(members)
    assert [(row.name, data[row.offset : row.offset + row.size]) for row in rows] == members
    assert [row.xxh3 for row in rows] == [xxhash.xxh3_64_hexdigest(content) for _, content in members]


@settings(deadline=None)
@given(shards)
def test_a_scan_rebuilds_the_index(members: list[tuple[str, bytes]]) -> None:
    data, rows = write(members)
    assert scan_tar(io.BytesIO(data)) == rows
    assert read_index(pack_index(rows)) == rows


def test_bytes_are_pinned() -> None:
    data, rows = write(MEMBERS)
    assert (
        hashlib.sha256(data).hexdigest() == "62b90c3e85b261f44a87e827c75c829c5830bf29cc9f342d02958afbcc158d3d"
    )
    assert pack_index(rows[:1]) == (
        b'{"format":1,"members":[["0a.feat.bin",512,1280,"' + rows[0].xxh3.encode() + b'"]]}'
    )


def test_plain_tools_read_it(tmp_path: Path) -> None:
    path = tmp_path / "image-all.tar"
    path.write_bytes(write(MEMBERS)[0])
    listed = subprocess.run(["tar", "tf", path], check=True, capture_output=True, text=True)
    assert listed.stdout.split() == [name for name, _ in MEMBERS]
    assert listed.stderr == ""
    with tarfile.open(path) as tar:
        assert [(found.name, found.mtime, found.uid, found.mode) for found in tar] == [
            (name, 0, 0, 0o644) for name, _ in MEMBERS
        ]
    samples = list(webdataset.WebDataset(str(path), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == ["0a", "1b"]
    assert samples[0]["feat.bin"] == MEMBERS[0][1]
    assert samples[1]["json"] == MEMBERS[3][1]


def test_writes_are_large() -> None:
    sizes: list[int] = []

    class Recorder(io.BytesIO):
        def write(self, data) -> int:
            sizes.append(len(data))
            return super().write(data)

    file = Recorder()
    members = [
        (f"{index:04}", bytes([index]) * size) for index, size in enumerate([10, 9_000_000, 3, 70_000])
    ]
    rows = write_shard(members, file).members
    assert scan_tar(io.BytesIO(file.getvalue())) == rows
    assert sizes[:-1] == [WRITE_BYTES] * 2
    assert sum(sizes) == len(file.getvalue())


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (["b", "a"], "sort the members"),
        (["a", "a"], "each once"),
        (["a" * 100], "no member name"),
        (["a/b"], "no member name"),
        (["../a"], "no member name"),
        ([""], "no member name"),
        (["ä"], "no member name"),
        (["a\n"], "no member name"),
    ],
)
def test_odd_members_are_refused(members: list[str], message: str) -> None:
    with pytest.raises(WorkError, match=message):
        write([(name, b"x") for name in members])


@pytest.mark.parametrize("keep", [0, 100, 512, 600, 1791, 1792, 2000])
def test_a_cut_tar_is_corrupt(keep: int) -> None:
    with pytest.raises(CorruptError):
        scan_tar(io.BytesIO(write(MEMBERS)[0][:keep]))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=3))
def test_a_damaged_tar_is_corrupt_or_disagrees_with_its_index(changes: list[tuple[int, int]]) -> None:
    data, rows = write(MEMBERS)
    damaged = bytearray(data)
    for position, value in changes:
        damaged[position] = value
    try:
        found = scan_tar(io.BytesIO(damaged))
    except CorruptError:
        return
    intact = [
        damaged[row.offset : row.offset + row.size] == data[row.offset : row.offset + row.size]
        for row in rows
    ]
    assert all(intact) or found != rows


def test_a_foreign_tar_is_not_a_shard() -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("folder/" + "ä" * 60))
    with pytest.raises(CorruptError, match="not written for a shard"):
        scan_tar(io.BytesIO(file.getvalue()))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"\xff",
        b'{"format":2,"members":[]}',
        b'{"format":1}',
        b'{"format":1,"members":[["a",1,2]]}',
        b'{"format":1,"members":[["a",-1,2,"00"]]}',
        b'{"format":1,"members":[["a","1",2,"00"]]}',
        b'{"format":1,"members":[{}]}',
    ],
)
def test_a_bad_index_is_corrupt(data: bytes) -> None:
    with pytest.raises(CorruptError):
        read_index(data)
