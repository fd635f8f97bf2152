"""Annotation files inside gzip: whole, cut, damaged, and bombs."""

import gzip
import json
import random

import pytest
from row_reading import read_file

from pipelines.ingest.rows import unpack
from pipelines.ingest.rows.ranges import RangeKind
from schemas.errors import CorruptError

ROWS = [{"id": n, "turns": [{"from": "a", "value": "}, {" * (n % 9)}]} for n in range(500)]
LIST = json.dumps(ROWS).encode()
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


@pytest.mark.parametrize("text", [LIST, LINES, b"\xef\xbb\xbf" + LIST, b" \n" + LIST], ids=range(4))
@pytest.mark.parametrize("chunk_bytes", [100, 1 << 18])
def test_a_packed_file_is_one_stream(tmp_path, text, chunk_bytes):
    packed = read_file(tmp_path, gzip.compress(text), 300, chunk_bytes, ("id",))
    plain = read_file(tmp_path, text, 300, chunk_bytes, ("id",))
    assert [one.kind for one in packed.ranges] == [RangeKind.STREAM]
    assert (packed.rows, packed.fields) == (plain.rows, plain.fields)
    assert [value for _, value, _ in packed.rows] == ROWS


def test_members_that_follow_each_other_are_one_text(tmp_path):
    data = gzip.compress(LIST[:5000]) + gzip.compress(LIST[5000:]) + b"\0" * 20
    assert [value for _, value, _ in read_file(tmp_path, data).rows] == ROWS


def test_offsets_count_unpacked_bytes(tmp_path):
    bad = b'{"id": NaN}'
    text = LIST[:-1] + b", " + bad + b"]"
    reading = read_file(tmp_path, gzip.compress(text), chunk_bytes=1000)
    assert f"byte {text.index(bad)} " in reading.problems[500].message
    start = LIST.rindex(b'{"id"')
    with pytest.raises(CorruptError, match=f"row 499, byte {start}: the file is cut"):
        read_file(tmp_path, gzip.compress(LIST[:-5]), chunk_bytes=1000)


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (gzip.compress(LIST)[:-9], "damaged"),
        (gzip.compress(LIST)[: len(gzip.compress(LIST)) // 2], "damaged"),
        (gzip.compress(LIST)[:-8] + b"\0" * 8, "damaged"),
        (gzip.compress(LIST) + b"junk", "damaged"),
        (b"\x1f\x8b\x08\x00", "damaged"),
        (b"\x1f\x8b\x08\x00" + b"\xff" * 50, "damaged"),
        (gzip.compress(b""), "empty"),
        (gzip.compress(gzip.compress(LIST)), "packed with gzip twice"),
        (gzip.compress(b"PAR1..."), "parquet inside gzip"),
        (gzip.compress(LIST.decode().encode("utf-16")), "UTF-16"),
        (gzip.compress(b'{\n "a": 1}'), "one JSON object"),
    ],
    ids=range(11),
)
def test_what_cannot_be_unpacked_is_named_so(tmp_path, data, word):
    with pytest.raises(CorruptError, match=rf"annotations a\.json: .*{word}"):
        read_file(tmp_path, data)


def test_a_bomb_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(unpack, "FREE_BYTES", 1 << 20)
    bomb = gzip.compress(b"[" + b'{"id":1},' * 400_000)
    assert len(bomb) * unpack.MAX_RATIO < 3_600_000
    with pytest.raises(CorruptError, match="unpack the file first"):
        read_file(tmp_path, bomb)


def test_what_packs_well_is_no_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr(unpack, "FREE_BYTES", 1 << 10)
    rng = random.Random(1)
    rows = [{"id": n, "turns": [{"from": "human", "value": rng.choice("abc")}]} for n in range(3000)]
    assert len(read_file(tmp_path, gzip.compress(json.dumps(rows, indent=4).encode())).rows) == 3000
