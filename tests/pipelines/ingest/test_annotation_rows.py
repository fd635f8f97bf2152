"""Annotation files of every kind, whole and broken, against whole-file parsers."""

import io
import json
from unittest.mock import patch

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.ingest import json_rows
from pipelines.ingest.json_rows import read_array, read_lines
from pipelines.ingest.rows import read_rows
from schemas.errors import ConfigError, CorruptError, RejectCode

nasty_text = st.text(alphabet=st.sampled_from('a"\\[]{},:\n é😀'), max_size=8) | st.sampled_from(
    ['}, {"id": ', ']}, {"id": ', '\\\\"', "</s>"]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | nasty_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(nasty_text, inner, max_size=3),
    max_leaves=6,
)
alike = st.lists(
    st.fixed_dictionaries({"id": values}, optional={"x": st.lists(st.fixed_dictionaries({"id": values}))}),
    min_size=1,
    max_size=8,
)
spellings = st.sampled_from(
    [{}, {"indent": 2}, {"separators": (",", ":")}, {"ensure_ascii": False}, {"separators": (" , ", " : ")}]
)
chunk_sizes = st.sampled_from([1, 7, 33, 1 << 18])


def write(folder, data):
    path = folder / "a.json"
    path.write_bytes(data)
    return path


def read(folder, data):
    return list(read_rows(write(folder, data), "a.json"))


def read_in_chunks(data, size):
    with patch.object(json_rows, "_CHUNK_BYTES", size):
        return list(read_array(io.BytesIO(data), "a.json"))


@given(rows=alike | st.lists(values, max_size=8), spelling=spellings, size=chunk_sizes)
def test_a_list_reads_as_a_whole_parse_reads_it(rows, spelling, size):
    read_back = read_in_chunks(json.dumps(rows, **spelling).encode(), size)
    assert [row.value for row in read_back] == rows
    assert [row.number for row in read_back] == list(range(len(rows)))
    assert [json.loads(row.raw) for row in read_back] == rows


@given(
    rows=alike | st.lists(st.dictionaries(nasty_text, nasty_text, max_size=3), min_size=1, max_size=5),
    size=chunk_sizes,
    place=st.floats(0, 1, exclude_max=True),
    mend=st.sampled_from([b"", b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", b"\xff", b"x", b"\x00"]),
    width=st.integers(0, 1),
)
def test_one_wrong_byte_is_noticed_exactly_when_it_breaks_the_file(rows, size, place, mend, width):
    data = json.dumps(rows).encode()
    at = int(place * len(data))
    data = data[:at] + mend + data[at + width :]
    if not data.lstrip().startswith(b"["):
        return
    try:
        expected = json.loads(data.decode(), object_pairs_hook=_refuse_doubles)
        msgspec.json.decode(data)
        is_sound = isinstance(expected, list)
    except (ValueError, UnicodeDecodeError, msgspec.DecodeError):
        is_sound = False
    try:
        read_back = read_in_chunks(data, size)
    except CorruptError:
        read_back = None
    if read_back is None:
        assert not is_sound, data
        return
    assert is_sound == all(row.problem is None for row in read_back), data
    if is_sound:
        assert [row.value for row in read_back] == expected


def _refuse_doubles(pairs):
    if len(dict(pairs)) < len(pairs):
        raise ValueError("double key")
    return dict(pairs)


def test_most_rows_end_where_they_are_guessed_to_end():
    rows = [{"id": n, "turns": [{"from": "a", "value": '"}, {"id"'}, {"id": n}]} for n in range(200)]
    walked = []
    real = json_rows._Window._find_end

    def walk(window):
        walked.append(window.row)
        return real(window)

    with patch.object(json_rows._Window, "_find_end", walk):
        read_back = read_in_chunks(json.dumps(rows, indent=1).encode(), 1 << 18)
    assert [row.value for row in read_back] == rows
    assert len(walked) < 5


@pytest.mark.parametrize(
    ("row", "word"),
    [
        (b'{"a": NaN}', "no JSON"),
        (b'{"a": Infinity}', "no JSON"),
        (b"{'a': 1}", "no JSON"),
        (b'{"a": "\\ud800"}', "no JSON"),
        (b'{"a": "\xff"}', "no JSON"),
        (b'{"a": 1, "a": 1}', "twice"),
        (b'{"a": 1, "\\u0061": 2}', "twice"),
        (b'{"a": [{"b": 1, "b": 2}]}', "twice"),
        (b'{"a": ' + b"[" * 3000 + b"]" * 3000 + b"}", "nested"),
        (b'{"a": ' + b"9" * 6000 + b"}", "no JSON"),
        (b"NaN", "no JSON"),
        (b"{,}", "no JSON"),
    ],
)
@pytest.mark.parametrize("joined", [b"[%b]", b"%b"], ids=["list", "lines"])
def test_a_balanced_row_that_is_no_json_costs_itself_alone(row, word, joined):
    separator = b", " if joined.startswith(b"[") else b"\n"
    data = joined % separator.join([b'{"x": 1}', row, b'{"x": 2}'])
    reader = read_array if joined.startswith(b"[") else read_lines
    first, bad, last = reader(io.BytesIO(data), "a.json")
    assert (first.value, last.value) == ({"x": 1}, {"x": 2})
    assert bad.raw == row
    assert bad.problem is not None
    assert word in bad.problem


@pytest.mark.parametrize(
    ("data", "row", "byte"),
    [
        (b'[{"a": 1}, {"a": ', 1, 11),
        (b'[{"a": 1}, {"a": "x', 1, 11),
        (b'[{"a": 1}, {"a": ]}', 1, 11),
        (b'[{"a": 1}, "x', 1, 11),
        (b'[{"a": 1}', 1, 9),
        (b'[{"a": 1},]', 1, 10),
        (b'[{"a": 1} {"b": 2}]', 1, 10),
        (b'[{"a": 1}] more', 1, 11),
        (b"[,1]", 0, 1),
        (b"[", 0, 1),
    ],
)
def test_a_broken_list_is_fatal_and_says_where(tmp_path, data, row, byte):
    with pytest.raises(CorruptError, match=f"row {row}, byte {byte}:"):
        read(tmp_path, data)


def test_offsets_count_the_byte_order_mark(tmp_path):
    with pytest.raises(CorruptError, match="row 1, byte 14:"):
        read(tmp_path, b'\xef\xbb\xbf[{"a": 1}, {"a": ')
    (row,) = read(tmp_path, b'\xef\xbb\xbf[{"a": 1}]')
    assert row.value == {"a": 1}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"  \n ",
        b'"text"',
        b"12",
        b"\x00\x01\x02",
        b"<html></html>",
        b'{\n "a": 1\n}',
        b"\x1f\x8b\x08\x00",
        b"PK\x03\x04",
        '["x"]'.encode("utf-16"),
        b"PAR1 and nothing of the kind",
    ],
)
def test_what_is_no_annotation_file_is_named_so(tmp_path, data):
    with pytest.raises(CorruptError, match=r"annotations a\.json"):
        read(tmp_path, data)


def test_lines_are_numbered_as_an_editor_numbers_them(tmp_path):
    rows = read(tmp_path, b'{"a": 1}\n\n{"a": 2}\r\n{"a": \n[3]')
    assert [(row.number, row.value) for row in rows] == [(0, {"a": 1}), (2, {"a": 2}), (3, None), (4, [3])]
    assert [row.problem is None for row in rows] == [True, True, False, True]


@pytest.mark.parametrize("data", [b'[{"a": "%b"}]', b'{"a": "%b"}'], ids=["list", "lines"])
def test_a_row_without_end_stops_at_the_limit(tmp_path, data):
    with patch.object(json_rows, "MAX_ROW_BYTES", 1000), patch.object(json_rows, "_CHUNK_BYTES", 100):
        with pytest.raises(CorruptError, match="longer than"):
            read(tmp_path, data % (b"x" * 3000))
        assert len(read(tmp_path, data % (b"x" * 500))) == 1


def test_memory_does_not_grow_with_the_file():
    class Endless(io.BufferedIOBase):
        def __init__(self):
            self.given = 0
            self.largest = 0

        def read(self, size=-1):
            self.largest = max(self.largest, size)
            self.given += 1
            return b"[1" if self.given == 1 else b', {"a": "bcdefghi"}' * (size // 19 + 1)

        def tell(self):
            return 0

    file = Endless()
    with patch.object(json_rows, "_CHUNK_BYTES", 1000):
        rows = read_array(file, "a.json")
        for _ in range(3000):
            next(rows)
    assert file.given > 50
    assert file.largest <= 2000


def test_parquet_rows_come_without_the_bytes_of_pictures(tmp_path):
    rows = [
        {"id": "1", "image": {"bytes": b"xxx", "path": None}, "conversations": [{"from": "a", "value": "q"}]},
        {"id": "2", "image": None, "conversations": []},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.json", row_group_size=1)
    first, second = read_rows(tmp_path / "a.json", "a.json")
    assert first.value == rows[0] | {"image": {"path": None}}
    assert second.value == rows[1]
    assert json.loads(first.raw) == first.value
    assert [first.number, second.number] == [0, 1]


def test_parquet_that_has_bytes_alone_is_read_with_them(tmp_path):
    rows = [{"image": {"bytes": b"x"}}, {"image": None}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.json")
    assert [row.value for row in read_rows(tmp_path / "a.json", "a")] == rows


def test_a_cell_that_cannot_be_read_costs_its_row_alone(tmp_path):
    texts = pa.array([b"fine", b"\xff\xfe", b"fine", b"\xff"], pa.binary()).view(pa.string())
    seconds = pa.array([0, 1, 1 << 50, 1 << 50], pa.timestamp("s"))
    table = pa.table({"id": pa.array(range(4)), "q": texts, "when": seconds})
    pq.write_table(table, tmp_path / "a.parquet")
    rows = list(read_rows(tmp_path / "a.parquet", "a.parquet"))
    assert [row.number for row in rows] == [0, 1, 2, 3]
    assert [row.problem is None for row in rows] == [True, False, False, False]
    assert [row.value is None for row in rows] == [False, True, True, True]
    assert {row.code for row in rows[1:]} == {RejectCode.BAD_TYPE}
    assert "column 'q' cannot be read: 'utf-8'" in rows[1].problem
    assert "column 'when' cannot be read" in rows[2].problem
    assert [sorted(json.loads(row.raw)) for row in rows] == [
        ["id", "q", "when"],
        ["id", "when"],
        ["id", "q"],
        ["id"],
    ]


def test_times_that_json_does_not_know_are_text(tmp_path):
    pq.write_table(pa.table({"id": ["a"], "when": pa.array([1], pa.timestamp("ns"))}), tmp_path / "a.parquet")
    (row,) = read_rows(tmp_path / "a.parquet", "a.parquet")
    assert (row.problem, json.loads(row.raw)["id"]) == (None, "a")


def test_a_missing_file_is_a_matter_of_the_recipe(tmp_path):
    with pytest.raises(ConfigError, match=r"a\.json: cannot be read"):
        list(read_rows(tmp_path / "gone.json", "a.json"))
