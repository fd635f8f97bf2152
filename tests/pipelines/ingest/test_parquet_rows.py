"""Parquet annotations: rows without pictures, pictures by row, damage, ranges of row groups."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from row_reading import read_from

from infra.files import open_files
from infra.s3_client import connect
from pipelines.ingest.rows import parquet_rows, ranges
from pipelines.ingest.rows.chunks import read_chunks, scan_chunks
from pipelines.ingest.rows.parquet_rows import EmbeddedMedia, read_pictures
from pipelines.ingest.rows.ranges import RangeKind, RowRange, plan_ranges
from schemas.errors import CorruptError, RejectCode, SampleError, StorageUnavailableError
from schemas.record import MediumKind

PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
TURNS = pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())]))


def write(path, rows, picture=("image", PICTURE), group_rows=2, **columns):
    fields = [
        ("id", pa.string()),
        ("conversations", TURNS),
        *([picture] if picture else []),
        *columns.items(),
    ]
    table = pa.Table.from_pylist(rows, pa.schema(fields))
    pq.write_table(table, path, row_group_size=group_rows)


def sample(count, image):
    return [
        {"id": f"r{n}", "conversations": [{"from": "human", "value": f"q{n}"}], "image": image(n)}
        for n in range(count)
    ]


def picture(n):
    return None if n % 3 == 2 else {"bytes": b"picture %d" % n, "path": f"{n}.png"}


def without_bytes(row):
    image = row["image"]
    if isinstance(image, list):
        return row | {"image": [one and {"path": one["path"]} for one in image]}
    return row | {"image": image and {"path": image["path"]}}


def read_all(folder, fields=(), range_bytes=1, name="a.parquet"):
    return read_from(open_files(folder), name, range_bytes, fields=fields)


def pictures_of(folder, rows, name="a.parquet"):
    with open_files(folder).open(name) as file:
        return list(read_pictures(file, rows, name))


def test_rows_come_in_ranges_without_the_bytes_of_pictures(tmp_path):
    rows = sample(7, picture)
    write(tmp_path / "a.parquet", rows)
    reading = read_all(tmp_path, ("id", "image", "gone"))
    assert reading.ranges == [RowRange(RangeKind.PARQUET, group, group + 1) for group in range(4)]
    expected = [without_bytes(row) for row in rows]
    assert [value for _, value, _ in reading.rows] == expected
    assert [json.loads(raw) for raw, _, _ in reading.rows] == expected
    assert reading.fields == [(row["id"], row["image"], None) for row in expected]
    assert len(read_all(tmp_path, range_bytes=1 << 20).ranges) == 1


def test_scanning_without_fields_reads_the_footer_alone(tmp_path):
    write(tmp_path / "a.parquet", sample(5, picture))
    (rows,) = plan_ranges(open_files(tmp_path), "a.parquet", "a.parquet")
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    data[4:400] = bytes(396)
    (tmp_path / "a.parquet").write_bytes(data)
    with open_files(tmp_path).open("a.parquet") as file:
        assert sum(chunk.num_rows for chunk in scan_chunks(file, "a", rows, 0, ())) == 5
        with pytest.raises(CorruptError, match="damaged parquet"):
            list(read_chunks(file, "a", rows, 0))


def test_ranges_hold_as_many_pictures_as_fit(tmp_path, monkeypatch):
    rows = sample(8, lambda n: {"bytes": bytes(range(256)) * 40, "path": None})
    write(tmp_path / "a.parquet", rows, group_rows=1)
    files = open_files(tmp_path)
    assert len(plan_ranges(files, "a.parquet", "a")) == 1
    group_bytes = pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(0).column(3).total_compressed_size
    monkeypatch.setattr(ranges, "PICTURE_BYTES", 3 * group_bytes)
    assert [(one.start, one.end) for one in plan_ranges(files, "a.parquet", "a")] == [(0, 3), (3, 6), (6, 8)]


def test_a_file_without_rows_has_no_ranges(tmp_path):
    write(tmp_path / "a.parquet", [])
    assert read_all(tmp_path).rows == []


def test_pictures_come_by_row(tmp_path):
    rows = sample(70, picture)
    write(tmp_path / "a.parquet", rows, group_rows=35)
    for start, end in ((0, 2), (1, 2)):
        found = pictures_of(tmp_path, RowRange(RangeKind.PARQUET, start, end))
        assert found == [(row["image"]["bytes"],) if row["image"] else () for row in rows[35 * start :]]


def several(n):
    one = {"bytes": b"picture %d" % n, "path": None}
    return [None, [], [one], [one, {"bytes": None, "path": "x.png"}, None]][n % 4]


@pytest.mark.parametrize("name", ["image", "images"])
def test_lists_of_pictures_come_by_row(tmp_path, name):
    rows = [row | {name: row["image"]} for row in sample(8, several)]
    write(tmp_path / "a.parquet", rows, (name, pa.list_(PICTURE)))
    found = pictures_of(tmp_path, RowRange(RangeKind.PARQUET, 0, 4))
    assert found[:4] == [(), (), (b"picture 2",), (b"picture 3", None, None)]
    assert found[7] == (b"picture 7", None, None)
    values = [value for _, value, _ in read_all(tmp_path).rows]
    assert [value[name] for value in values] == [
        without_bytes(row)["image"] if row["image"] else row["image"] for row in rows
    ]
    media = EmbeddedMedia(tmp_path)
    assert (
        media.read("a.parquet#7/0", MediumKind.IMAGE)
        == media.read("a.parquet#7", MediumKind.IMAGE)
        == b"picture 7"
    )
    for location, code in (
        ("a.parquet#7/1", RejectCode.EMPTY_FILE),
        ("a.parquet#7/3", RejectCode.UNREADABLE_FILE),
        ("a.parquet#0", RejectCode.EMPTY_FILE),
    ):
        with pytest.raises(SampleError) as caught:
            media.read(location, MediumKind.IMAGE)
        assert caught.value.code is code


def test_embedded_media_are_found_by_row(tmp_path):
    rows = sample(7, picture)
    write(tmp_path / "a.parquet", rows)
    write(tmp_path / "b#1.parquet", rows[::-1])
    media = EmbeddedMedia(tmp_path)
    for n in (0, 6, 3, 1):
        assert media.read(f"a.parquet#{n}", MediumKind.IMAGE) == b"picture %d" % n
        assert media.read(f"b#1.parquet#{6 - n}", MediumKind.IMAGE) == b"picture %d" % n
    for location in ("a.parquet#7", "a.parquet#-1", "gone.parquet#0", "a.parquet#x", "a.parquet"):
        with pytest.raises(SampleError) as caught:
            media.read(location, MediumKind.IMAGE)
        assert caught.value.code is RejectCode.UNREADABLE_FILE, location
    assert media.read("a.parquet#0", MediumKind.IMAGE) == b"picture 0"


def test_of_a_large_row_group_some_rows_are_held(tmp_path, monkeypatch):
    write(tmp_path / "a.parquet", sample(100, picture), group_rows=80)
    monkeypatch.setattr(parquet_rows, "MAX_HELD_BYTES", 10)
    media = EmbeddedMedia(tmp_path)
    for n in (0, 31, 33, 79, 78, 81, 99, 1):
        if picture(n):
            assert media.read(f"a.parquet#{n}", MediumKind.IMAGE) == b"picture %d" % n
        assert len(media._pictures) <= 32


def test_storage_that_fails_rejects_no_record(tmp_path, monkeypatch):
    write(tmp_path / "a.parquet", sample(3, picture))

    def fail(*_):
        raise StorageUnavailableError("no whole answer in 5 tries")

    media = EmbeddedMedia(tmp_path)
    monkeypatch.setattr(media._files, "open", fail)
    with pytest.raises(StorageUnavailableError):
        media.read("a.parquet#0", MediumKind.IMAGE)


def test_a_file_without_pictures_has_none(tmp_path):
    write(tmp_path / "a.parquet", sample(3, picture), picture=None)
    assert pictures_of(tmp_path, RowRange(RangeKind.PARQUET, 0, 2)) == [(), (), ()]
    with pytest.raises(SampleError, match="no bytes"):
        EmbeddedMedia(tmp_path).read("a.parquet#0", MediumKind.IMAGE)


def test_other_columns_come_as_they_are(tmp_path):
    pq.write_table(pa.table({"bytes": [b"x"], "image": ["a.png"], "n": [1.5]}), tmp_path / "a.parquet")
    reading = read_all(tmp_path, ("image", "id"))
    assert [value for _, value, _ in reading.rows] == [{"bytes": b"x", "image": "a.png", "n": 1.5}]
    assert reading.fields == [("a.png", None)]


def test_bytes_alone_are_read_since_nothing_else_tells_of_them(tmp_path):
    rows = [{"image": {"bytes": b"x"}}, {"image": None}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert [value for _, value, _ in read_all(tmp_path).rows] == rows
    assert pictures_of(tmp_path, RowRange(RangeKind.PARQUET, 0, 1)) == [(b"x",), ()]


def test_a_cell_that_cannot_be_read_costs_its_row_alone(tmp_path):
    texts = pa.array([b"fine", b"\xff\xfe", b"fine", b"\xff"], pa.binary()).view(pa.string())
    seconds = pa.array([0, 1, 1 << 50, 1 << 50], pa.timestamp("s"))
    table = pa.table({"id": pa.array(range(4)), "q": texts, "when": seconds})
    pq.write_table(table, tmp_path / "a.parquet")
    reading = read_all(tmp_path, ("id",))
    assert [sound for _, _, sound in reading.rows] == [True, False, False, False]
    assert [value is None for _, value, _ in reading.rows] == [False, True, True, True]
    assert {problem.code for problem in reading.problems.values()} == {RejectCode.BAD_TYPE}
    assert "column 'q' cannot be read: 'utf-8'" in reading.problems[1].message
    assert "column 'when' cannot be read" in reading.problems[2].message
    assert [sorted(json.loads(raw)) for raw, _, _ in reading.rows] == [
        ["id", "q", "when"],
        ["id", "when"],
        ["id", "q"],
        ["id"],
    ]
    assert reading.fields == [(0,), (1,), (2,), (3,)]


def test_times_that_json_does_not_know_are_text(tmp_path):
    pq.write_table(pa.table({"id": ["a"], "when": pa.array([1], pa.timestamp("ns"))}), tmp_path / "a.parquet")
    ((raw, value, sound),) = read_all(tmp_path).rows
    assert (sound, json.loads(raw)["id"], value["id"]) == (True, "a", "a")


@pytest.mark.parametrize("cut", [5, 100, -1, -9])
def test_damage_is_named_without_paths_of_this_machine(tmp_path, cut):
    write(tmp_path / "a.parquet", sample(5, picture))
    data = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(data[:cut])
    with pytest.raises(CorruptError, match=r"annotations a\.parquet: damaged parquet") as caught:
        read_all(tmp_path)
    assert str(tmp_path) not in str(caught.value)
    with pytest.raises(SampleError) as refused:
        EmbeddedMedia(tmp_path).read("a.parquet#0", MediumKind.IMAGE)
    assert refused.value.code is RejectCode.UNREADABLE_FILE
    assert str(tmp_path) not in refused.value.message


def test_every_damaged_byte_is_either_harmless_or_named(tmp_path):
    rows = sample(3, picture)
    write(tmp_path / "a.parquet", rows)
    data = (tmp_path / "a.parquet").read_bytes()
    named = 0
    for at in range(4, len(data), 37):
        (tmp_path / "a.parquet").write_bytes(data[:at] + bytes([data[at] ^ 0x5A]) + data[at + 1 :])
        try:
            read_all(tmp_path)
        except CorruptError:
            named += 1
    assert named > 5


def test_storage_that_fails_is_no_damage(tmp_path):
    write(tmp_path / "a.parquet", sample(5, picture))

    class Failing(io.FileIO):
        def read(self, size=-1, /):
            raise StorageUnavailableError("s3://bucket/a.parquet: no whole answer in 5 tries")

    with Failing(tmp_path / "a.parquet") as file, pytest.raises(StorageUnavailableError):
        list(read_pictures(file, RowRange(RangeKind.PARQUET, 0, 1)))


def test_a_file_on_s3_reads_as_here(s3_url, tmp_path):
    rows = sample(70, picture)
    write(tmp_path / "a.parquet", rows, group_rows=20)
    bucket, _, prefix = s3_url.removeprefix("s3://").partition("/")
    data = (tmp_path / "a.parquet").read_bytes()
    connect().call_s3("put_object", Bucket=bucket, Key=f"{prefix}/a.parquet", Body=data)
    assert read_all(s3_url, ("id",)).rows == read_all(tmp_path, ("id",)).rows
    assert EmbeddedMedia(s3_url).read("a.parquet#66", MediumKind.IMAGE) == b"picture 66"
