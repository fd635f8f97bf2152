"""Annotation files in ranges and chunks, whole and broken, against a reader that goes byte by byte."""

import io
import json
from itertools import pairwise
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_rows import naive_rows
from row_reading import read_file, read_from

from infra.files import open_files
from infra.s3_client import connect
from pipelines.ingest.rows import array_pieces, chunks, pieces
from pipelines.ingest.rows.chunks import read_chunks, scan_chunks
from pipelines.ingest.rows.ranges import RangeBoundaryError, RangeKind, RowRange, plan_ranges
from schemas.errors import ConfigError, CorruptError, NotFoundError, RejectCode

nasty_text = st.text(alphabet=st.sampled_from('a"\\[]{},:\n é😀'), max_size=8) | st.sampled_from(
    ['}, {"id": ', ']}, {"id": ', '\\\\"', "</s>", "\ud800"]
)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | nasty_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(nasty_text, inner, max_size=3),
    max_leaves=6,
)
turns = st.lists(st.fixed_dictionaries({"from": nasty_text, "value": nasty_text}), max_size=3)
alike = st.lists(
    st.fixed_dictionaries({"id": values}, optional={"image": nasty_text, "conversations": turns}),
    min_size=1,
    max_size=12,
)
rows_of_all_kinds = alike | st.lists(values, max_size=8)
spellings = st.sampled_from(
    [{}, {"indent": 2}, {"separators": (",", ":")}, {"ensure_ascii": False}, {"separators": (" , ", " : ")}]
)
range_sizes = st.sampled_from([1, 20, 64, 300, 1 << 25])
chunk_sizes = st.sampled_from([1, 7, 33, 100, 1 << 18])
field_sets = st.sampled_from([(), ("id",), ("image", "conversations"), ("a", "id")])
SPLICED = [b"", b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", b"\xff", b"x", b"\x00", b"\n", b"NaN", b"]}"]
SPLICED += [b'{"id": 1, "id": 2}, ', b'}, {"id": "', b"\\ud800", b"1e999", b"9" * 5000, b'\\"', b'\\\\"']
SPLICED += [b'"a" : 1, ', b"[" * 1500, b"{}\n{}", b"1,2\n"]
splices = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 6), st.sampled_from(SPLICED)),
    min_size=1,
    max_size=3,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("rows")


def spell(rows, spelling, as_lines):
    if as_lines:
        spelling = {key: value for key, value in spelling.items() if key != "indent"}
        text = "".join(json.dumps(row, **spelling) + "\n" for row in [{"id": 0}, *rows])
    else:
        text = json.dumps(rows, **spelling)
    return text.encode("utf-8", "surrogatepass")


def fields_of(value, fields):
    return tuple(value.get(name) for name in fields) if isinstance(value, dict) else (None,) * len(fields)


@given(
    rows=rows_of_all_kinds,
    spelling=spellings,
    as_lines=st.booleans(),
    range_bytes=range_sizes,
    chunk_bytes=chunk_sizes,
    fields=field_sets,
    edits=st.just([]) | splices,
)
@settings(max_examples=300, deadline=None)
def test_a_file_reads_as_the_naive_reader_reads_it(
    folder, rows, spelling, as_lines, range_bytes, chunk_bytes, fields, edits
):
    data = spell(rows, spelling, as_lines)
    for place, width, text in edits:
        at = int(place * len(data))
        data = data[:at] + text + data[at + width :]
    expected = naive_rows(data)
    if expected is None:
        with pytest.raises(CorruptError) as caught:
            read_file(folder, data, range_bytes, chunk_bytes, fields)
        assert caught.type is CorruptError
        return
    reading = read_file(folder, data, range_bytes, chunk_bytes, fields)
    assert reading.rows == expected
    sound = [place for place, row in enumerate(reading.rows) if row[2]]
    assert [reading.fields[place] for place in sound] == [
        fields_of(reading.rows[place][1], fields) for place in sound
    ]


@given(rows=alike, spelling=spellings, chunk_bytes=chunk_sizes)
@settings(max_examples=50, deadline=None)
def test_a_sound_file_reads_as_a_whole_parse_reads_it(folder, rows, spelling, chunk_bytes):
    rows = json.loads(json.dumps(rows).replace("\\ud800", "?"))
    reading = read_file(folder, json.dumps(rows, **spelling).encode(), 64, chunk_bytes)
    assert [value for _, value, _ in reading.rows] == rows
    assert [json.loads(raw) for raw, _, _ in reading.rows] == rows


def sample_rows(count):
    return [
        {"id": n, "turns": [{"from": "a", "value": '"}, {"id"'}, {"from": "b", "value": "é" * (n % 50)}]}
        for n in range(count)
    ]


@pytest.mark.parametrize("kind", [RangeKind.ARRAY, RangeKind.LINES])
@pytest.mark.parametrize("spelling", [{}, {"indent": 2}, {"separators": (",", ":")}])
def test_ranges_cover_the_file_in_order_and_are_not_guessed_wrong(tmp_path, kind, spelling):
    rows = sample_rows(2000)
    reading = read_file(tmp_path, spell(rows, spelling, kind is RangeKind.LINES), 10_000, 2_000)
    assert [value for _, value, _ in reading.rows[-len(rows) :]] == rows
    assert reading.num_replaced == 0
    assert len(reading.ranges) > 10
    assert {one.kind for one in reading.ranges} == {kind}
    assert reading.ranges[0].start == 0
    assert reading.ranges[-1].end == (tmp_path / "a.json").stat().st_size
    assert all(before.end == after.start for before, after in pairwise(reading.ranges))
    assert reading.num_chunks > 5 * len(reading.ranges)


def test_a_range_that_was_guessed_wrong_is_read_in_sequence(tmp_path):
    rows = [{"id": n, "turns": []} for n in range(30)]
    rows += [{"id": n, "parts": [{"id": k, "turns": []} for k in range(40)], "turns": []} for n in range(30)]
    reading = read_file(tmp_path, json.dumps(rows).encode(), 300, 200, ("id",))
    assert reading.num_replaced == 1
    assert len(reading.ranges) == 3
    assert reading.ranges[-1].kind is RangeKind.STREAM
    assert [value for _, value, _ in reading.rows] == rows
    assert reading.fields == [(row["id"],) for row in rows]


def test_most_rows_are_cut_where_they_are_guessed_to_end(tmp_path):
    walked = []
    real = array_pieces.ArrayCutter._walk

    def walk(cutter, *how):
        walked.append(cutter)
        return real(cutter, *how)

    with patch.object(array_pieces.ArrayCutter, "_walk", walk):
        reading = read_file(tmp_path, json.dumps(sample_rows(2000), indent=1).encode(), 20_000, 4_000)
    assert reading.num_chunks > 30
    assert not walked


def test_a_separator_that_changes_is_learnt_anew(tmp_path):
    rows = sample_rows(1000)
    texts = [json.dumps(row) for row in rows[:500]] + [json.dumps(row, indent=1) for row in rows[500:]]
    with patch.object(
        array_pieces.ArrayCutter, "_walk", autospec=True, side_effect=array_pieces.ArrayCutter._walk
    ) as walk:
        reading = read_file(tmp_path, f"[{', '.join(texts)}]".encode(), chunk_bytes=2000)
    assert [value for _, value, _ in reading.rows] == rows
    assert reading.num_chunks > 30
    assert 0 < walk.call_count < 6


def test_rows_without_a_common_separator_are_one_stream(tmp_path):
    rows = [[n, str(n)] for n in range(500)]
    reading = read_file(tmp_path, json.dumps(rows).encode(), 100, 50)
    assert [one.kind for one in reading.ranges] == [RangeKind.STREAM]
    assert [value for _, value, _ in reading.rows] == rows


BAD_ROWS = [
    (b'{"a": NaN}', "no JSON"),
    (b'{"a": Infinity}', "no JSON"),
    (b"{'a': 1}", "no JSON"),
    (b'{"a": "\\ud800"}', "no JSON"),
    (b'{"a": "\xff"}', "no JSON"),
    (b'{"a": 1, "a": 1}', "twice"),
    (b'{"a": 1, "\\u0061": 2}', "twice"),
    (b'{"a": [{"b": 1, "b": 2}]}', "twice"),
    (b'{"a": "x", "b": [{"c": "y", "c": "z"}]}', "twice"),
    (b'{"a" :1,"a":2}', "twice"),
    (b'{"a": ' + b"[" * 3000 + b"]" * 3000 + b"}", "nested"),
    (b'{"a": ' + b"9" * 6000 + b"}", "no JSON"),
    (b'{"a": 1e999}', "no JSON"),
    (b"NaN", "no JSON"),
    (b"{,}", "no JSON"),
]


@pytest.mark.parametrize(("row", "word"), BAD_ROWS)
@pytest.mark.parametrize("joined", [b"[%b]", b"%b"], ids=["list", "lines"])
def test_a_balanced_row_that_is_no_json_costs_itself_alone(tmp_path, row, word, joined):
    separator = b", " if joined.startswith(b"[") else b"\n"
    data = joined % separator.join([b'{"x": 1}', row, b'{"x": 2}'])
    reading = read_file(tmp_path, data, fields=("x",))
    first, bad, last = reading.rows
    assert (first[1], last[1]) == ({"x": 1}, {"x": 2})
    assert bad == (row, None, False)
    problem = reading.problems[1]
    assert problem.code is RejectCode.BAD_JSON
    assert word in problem.message
    assert f"byte {data.index(row)} " in problem.message
    assert (reading.fields[0], reading.fields[2]) == ((1,), (2,))


BROKEN_LISTS = [
    (b'[{"a": 1}, {"a": ', 1, 11),
    (b'[{"a": 1}, {"a": "x', 1, 11),
    (b'[{"a": 1}, {"a": ]}', 1, 11),
    (b'[{"a": 1}, "x', 1, 11),
    (b'[{"a": 1}', 1, 9),
    (b'[{"a": 1},]', 1, 10),
    (b'[{"a": 1}, ', 1, 11),
    (b'[{"a": 1} {"b": 2}]', 1, 10),
    (b'[{"a": 1}] more', 1, 11),
    (b"[]]", 0, 2),
    (b"[,1]", 0, 1),
    (b"[", 0, 1),
    (b"[1, " + b"[" * 200_000, 1, 4),
]


@pytest.mark.parametrize(("data", "row", "byte"), BROKEN_LISTS, ids=range(len(BROKEN_LISTS)))
@pytest.mark.parametrize("chunk_bytes", [1, 4, 9, 10, 11, 1 << 18])
def test_a_broken_list_is_fatal_and_says_where(tmp_path, data, row, byte, chunk_bytes):
    with pytest.raises(CorruptError, match=f"row {row}, byte {byte}:.*{row} rows before it are whole"):
        read_file(tmp_path, data, chunk_bytes=chunk_bytes)
    (rows,) = plan_ranges(open_files(tmp_path), "a.json", "a.json")
    with (
        open_files(tmp_path).open("a.json") as file,
        pytest.raises(RangeBoundaryError, match=f"bytes 0 to {len(data)}"),
    ):
        list(scan_chunks(file, "a.json", rows, 0, (), chunk_bytes))


def test_offsets_count_the_byte_order_mark(tmp_path):
    with pytest.raises(CorruptError, match="row 1, byte 14:"):
        read_file(tmp_path, b'\xef\xbb\xbf[{"a": 1}, {"a": ')
    for data in (b'\xef\xbb\xbf[{"a": 1}]', b'\xef\xbb\xbf{"a": 1}', b'\xef\xbb\xbf \n {"a": 1}\n'):
        assert [value for _, value, _ in read_file(tmp_path, data).rows] == [{"a": 1}]


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "empty"),
        (b"  \n ", "empty"),
        (b'"text"', "neither"),
        (b"12", "neither"),
        (b"\x00\x01\x02", "neither"),
        (b"<html></html>", "neither"),
        (b'{\n "a": 1\n}', "one JSON object"),
        (b"PK\x03\x04", "unpack"),
        ('["x"]'.encode("utf-16"), "convert it to UTF-8"),
        (b"PAR1 and nothing of the kind", "damaged parquet"),
    ],
)
def test_what_is_no_annotation_file_is_named_so(tmp_path, data, word):
    with pytest.raises(CorruptError, match=rf"annotations a\.json: .*{word}"):
        read_file(tmp_path, data)


def test_blank_lines_are_no_rows(tmp_path):
    reading = read_file(tmp_path, b'{"a": 1}\n\n \t\n{"a": 2}\r\n\r\n{"a": \n[3]\n"x"', chunk_bytes=4)
    assert [(value, sound) for _, value, sound in reading.rows] == [
        ({"a": 1}, True),
        ({"a": 2}, True),
        (None, False),
        ([3], True),
        ("x", True),
    ]


@pytest.mark.parametrize(
    "data",
    [
        b'{"a": 1} {"a": 2}\n{"a":\n3}\n',
        b'{"a": 1}\n"x\ny",2\n',
        b"{}\n[\n1]\n2 3\n",
        b'{"a":\n{"b": 1}}\n{}{}\n',
        b'{"a": {}\n}\n{}{}\n',
        b'{"a": [{}\n{}]}\n{}{}\n',
    ],
)
def test_a_line_is_a_row_whatever_stands_in_it(tmp_path, data):
    reading = read_file(tmp_path, data)
    assert reading.rows == naive_rows(data)
    assert not all(sound for _, _, sound in reading.rows)


@pytest.mark.parametrize("frame", [b"[%b]", b'{"b": 0}\n%b\n'], ids=["list", "lines"])
@pytest.mark.parametrize("num_after", [0, 400])
def test_a_row_over_the_limit_is_an_error(tmp_path, frame, num_after):
    separator = b", " if frame.startswith(b"[") else b"\n"
    for length, is_fine in ((800, True), (1001 - len(b'{"a": ""}'), False), (3000, False)):
        long = b'{"a": "%b"}' % (b"x" * length)
        data = frame % separator.join([b"{}", long, *[b'{"c": 1}'] * num_after])
        with patch.object(pieces, "MAX_ROW_BYTES", 1000):
            if is_fine:
                assert long in [raw for raw, _, _ in read_file(tmp_path, data, chunk_bytes=100).rows]
                continue
            row = 1 if frame.startswith(b"[") else 2
            with pytest.raises(CorruptError, match=rf"row {row}, byte {data.index(long)}: longer than"):
                read_file(tmp_path, data, chunk_bytes=100)


def test_a_quote_that_is_missing_stops_at_the_limit(tmp_path):
    data = b"[" + b", ".join([b'{"a": "x"}'] * 50 + [b'{"a": "x}'] + [b'{"a": 1}'] * 5000) + b"]"
    with (
        patch.object(pieces, "MAX_ROW_BYTES", 1000),
        pytest.raises(CorruptError, match=rf"row 50, byte {1 + 50 * 12}"),
    ):
        read_file(tmp_path, data, chunk_bytes=100)


@pytest.mark.parametrize("data", [b"%b[1,%b{},%b2%b]%b", b"%b{}%b\n%b\n%b2%b\n"], ids=["list", "lines"])
@pytest.mark.parametrize("chunk_bytes", [1, 10, 1 << 18])
def test_spaces_are_no_row_over_the_limit(tmp_path, data, chunk_bytes):
    data %= tuple([b" " * 90] * data.count(b"%b"))
    for text in (data, data.replace(b"  ", b" \n") if data.startswith(b" " * 90 + b"[") else data):
        with patch.object(pieces, "MAX_ROW_BYTES", 200):
            reading = read_file(tmp_path, text, chunk_bytes=chunk_bytes)
        assert [value for _, value, _ in reading.rows] == [value for _, value, _ in naive_rows(text)]
        assert reading.rows


def test_any_number_of_spaces_before_a_row_is_passed_by(tmp_path):
    data = b"[1," + b" \n" * 5000 + b"2]" + b" " * 5000
    with patch.object(pieces, "MAX_ROW_BYTES", 200):
        reading = read_file(tmp_path, data, chunk_bytes=10)
    assert [value for _, value, _ in reading.rows] == [1, 2]
    data = b"[1," + b" \n" * 5000 + b"NaN," + b"{" * 300
    with patch.object(pieces, "MAX_ROW_BYTES", 200), pytest.raises(CorruptError, match=r"row 2, byte 10007:"):
        read_file(tmp_path, data, chunk_bytes=10)


class Watched(io.RawIOBase):
    """A file that is not here: every read is a request."""

    def __init__(self, data):
        self._inner = io.BytesIO(data)
        self.sizes = []

    def readable(self):
        return True

    def seekable(self):
        return True

    def seek(self, offset, whence=0, /):
        return self._inner.seek(offset, whence)

    def tell(self):
        return self._inner.tell()

    def readinto(self, buffer, /):
        self.sizes.append(len(buffer))
        return self._inner.readinto(buffer)


def test_one_chunk_is_held_and_far_files_are_read_in_large_blocks():
    rows = sample_rows(3000)
    data = json.dumps(rows).encode()
    file = Watched(data)
    whole = RowRange(RangeKind.ARRAY, 0, len(data))
    with patch("pipelines.ingest.rows.text_source.REMOTE_BLOCK_BYTES", 100_000):
        found = list(read_chunks(file, "a", whole, 0, 4000))
    assert [value for chunk in found for value in chunk.values] == rows
    assert max(len(chunk.values) for chunk in found) < 60
    assert len(file.sizes) < 4 + len(data) / 100_000
    assert len(data) > 300_000


def test_a_file_on_s3_reads_as_here(s3_url, tmp_path):
    data = json.dumps(sample_rows(3000), indent=2).encode()
    bucket, _, prefix = s3_url.removeprefix("s3://").partition("/")
    connect().call_s3("put_object", Bucket=bucket, Key=f"{prefix}/a.json", Body=data)
    there = read_from(open_files(s3_url), "a.json", 200_000, fields=("id",))
    here = read_file(tmp_path, data, 200_000, fields=("id",))
    assert len(there.ranges) > 2
    assert (there.rows, there.fields, there.ranges) == (here.rows, here.fields, here.ranges)


def test_a_file_that_was_changed_meanwhile_is_noticed(tmp_path):
    reading = read_file(tmp_path, json.dumps(sample_rows(100)).encode(), 2000)
    second = reading.ranges[1]
    (tmp_path / "a.json").write_bytes(json.dumps(sample_rows(101)[1:]).encode())
    with open_files(tmp_path).open("a.json") as file, pytest.raises(CorruptError, match="changed"):
        list(read_chunks(file, "a.json", second, 0))


def test_a_file_that_is_gone_is_named(tmp_path):
    with pytest.raises(NotFoundError, match=r"a\.json"):
        plan_ranges(open_files(tmp_path), "a.json", "a.json")


def test_a_disk_that_fails_is_named():
    class Failing(Watched):
        def readinto(self, buffer, /):
            raise OSError(5, "Input/output error")

    with pytest.raises(ConfigError, match="annotations a: cannot be read: Input/output error"):
        list(chunks.read_chunks(Failing(b"[]"), "a", RowRange(RangeKind.ARRAY, 0, 2), 0))
