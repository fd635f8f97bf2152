"""Malformed annotation files through all of ingest: an error with its place, or rejects that add up."""

import gzip
import json
from collections import Counter
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from few_media import talk, write_media
from watched_storage import read_objects

from infra.storage import LocalStorage
from pipelines.engine import SerialEngine
from pipelines.ingest.flow import ingest
from pipelines.ingest.rows.ranges import plan_ranges
from pipelines.ingest.tables import read_examples, read_quarantine
from schemas.configuration import build
from schemas.errors import ConfigError, CorruptError
from schemas.recipe import Recipe

ROWS = [{"id": n, "image": "a.jpg", "conversations": talk(f"<image>\nQ {n}?", f"A {n}.")} for n in range(9)]
TEXTS = [json.dumps(row).encode() for row in ROWS]
LIST = b"[" + b",\n".join(TEXTS) + b"]"
LINES = b"".join(row + b"\n" for row in TEXTS)
LONG = b'{"id": "' + b"x" * 100_000_000 + b'"}'


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    return write_media(tmp_path_factory.mktemp("media"))


@pytest.fixture
def storage(tmp_path):
    return LocalStorage(tmp_path / "corpus")


def make_recipe(path, media, layout="llava"):
    source = {"name": "s", "format": layout, "annotations": str(path), "reject_budget": 1}
    if layout not in ("onevision", "llava_next"):
        source["media_root"] = str(media)
    return build({"name": "bad", "sources": [source]}, Recipe, "bad")


def ingest_bytes(folder, media, storage, data, name="a.json", layout="llava"):
    (folder / name).write_bytes(data)
    return ingest(make_recipe(folder / name, media, layout), storage, SerialEngine()).manifest


def rejects_of(storage, manifest):
    return [row for entry in manifest.quarantine for row in read_quarantine(storage, entry)]


def check_account(storage, manifest, num_rows):
    """Every row once, as an example or as a reject; the rejects."""
    (totals,) = manifest.sources
    examples = [row for entry in manifest.examples for row in read_examples(storage, entry)]
    rejects = rejects_of(storage, manifest)
    assert totals.read == num_rows == totals.written + totals.rejected
    assert (totals.written, totals.rejected) == (len(examples), len(rejects))
    assert Counter(reject.code for reject in rejects) == totals.rejects
    rows = [row.record_row for row in examples] + [reject.locator.row for reject in rejects]
    assert sorted(rows) == list(range(num_rows))
    assert all(reject.message for reject in rejects)
    return rejects


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (LIST[:-30], rf"row 8, byte {LIST.index(TEXTS[8])}: "),
        (LIST[:-1], rf"row 9, byte {len(LIST) - 1}: "),
        (LIST + b"]", rf"row 9, byte {len(LIST)}: "),
        (LIST.replace(b",\n", b"\n"), rf"row 1, byte {1 + len(TEXTS[0]) + 1}: "),
        (LIST.replace(b'"A 4."}]}', b'"A 4."]}'), r"row 4, byte \d+: .*brackets do not match"),
        (gzip.compress(LIST)[:-20], "damaged"),
        (gzip.compress(LIST[:-30]), rf"row 8, byte {LIST.index(TEXTS[8])}: "),
        (json.dumps({"data": ROWS}, indent=1).encode(), "one JSON object; a list of records is wanted"),
        (b'"text"', "neither JSON list, JSON lines nor parquet"),
        (b"7", "neither JSON list, JSON lines nor parquet"),
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (bytes(range(128, 256)) * 9, "neither JSON list, JSON lines nor parquet"),
        (bytes(1000), "neither JSON list, JSON lines nor parquet"),
        (LIST.decode().encode("utf-16"), "UTF-16; convert it to UTF-8"),
        (LIST.decode().encode("utf-32"), "UTF-(16|32)"),
        (b"PAR1" + bytes(100) + b"PAR1", "damaged parquet"),
    ],
    ids=[
        "cut in a row",
        "cut behind a row",
        "closed twice",
        "no commas",
        "a bracket too few",
        "packed and cut",
        "cut and packed",
        "an object",
        "a text",
        "a number",
        "empty",
        "blank",
        "garbage",
        "zeros",
        "UTF-16",
        "UTF-32",
        "no parquet",
    ],
)
@pytest.mark.parametrize("range_bytes", [1 << 25, 200], ids=["whole", "in ranges"])
def test_what_is_no_list_of_rows_is_an_error_with_its_place(
    tmp_path, media, storage, monkeypatch, data, words, range_bytes
):
    in_ranges = partial(plan_ranges, range_bytes=range_bytes)
    monkeypatch.setattr("pipelines.ingest.inputs.plan_ranges", in_ranges)
    with pytest.raises(CorruptError, match=rf"annotations .*a\.json: .*{words}"):
        ingest_bytes(tmp_path, media, storage, data)
    assert read_objects(storage.url) == {}


@pytest.mark.parametrize(("before", "after"), [(b"[", b"]"), (LIST[:-1] + b",\n", b"]"), (LINES, b"\n")])
def test_a_row_of_a_hundred_megabytes_is_an_error_with_its_place(tmp_path, media, storage, before, after):
    place = f"row {before.count(b'gpt')}, byte {len(before)}: longer than 64 MiB"
    with pytest.raises(CorruptError, match=place):
        ingest_bytes(tmp_path, media, storage, before + LONG + after)
    assert read_objects(storage.url) == {}


BAD_ROWS = {
    "NaN": b'{"id": 1, "score": NaN}',
    "infinity": b'{"id": 1, "score": -Infinity}',
    "a key twice": b'{"id": 1, "image": "a.jpg", "image": "b.png"}',
    "a key twice inside": b'{"id": 1, "conversations": [{"from": "human", "value": "a", "value": "b"}]}',
    "half a surrogate pair": b'{"id": "\\ud800"}',
    "Latin-1": '{"id": "caf\u00e9"}'.encode("latin-1"),
    "Windows quotes": b'{"id": "\x93x\x94"}',
    "single quotes": b"{'id': 1}",
    "a comment": b'{"id": 1 /* one */}',
    "a trailing comma": b'{"id": 1,}',
    "a control character": b'{"id": "\x01"}',
    "Python": b'{"id": None}',
    "deep": b'{"id": ' + b"[" * 3000 + b"]" * 3000 + b"}",
}


@pytest.mark.parametrize("how", ["list", "lines", "packed"])
@pytest.mark.parametrize("what", BAD_ROWS)
def test_a_row_that_is_no_json_costs_itself_alone(tmp_path, media, storage, what, how):
    rows = [*TEXTS[:5], BAD_ROWS[what], *TEXTS[5:]]
    text = b"\n".join(rows) + b"\n" if how == "lines" else b"[" + b", ".join(rows) + b"]"
    data = gzip.compress(text) if how == "packed" else text
    manifest = ingest_bytes(tmp_path, media, storage, data)
    (reject,) = check_account(storage, manifest, 10)
    assert (reject.code, reject.locator.row, reject.raw) == ("bad_json", 5, BAD_ROWS[what])
    assert f"byte {text.index(BAD_ROWS[what])} " in reject.message


def test_ids_of_every_type_are_kept_as_text_or_named(tmp_path, media, storage):
    ids = [1, "1", -5, 10**30, "ü", "", None, 1.5, True, [1], {"a": 1}, "\ud800"]
    rows = [ROWS[0] | {"id": one} for one in ids]
    manifest = ingest_bytes(tmp_path, media, storage, json.dumps(rows).encode())
    rejects = check_account(storage, manifest, len(ids))
    examples = [row for entry in manifest.examples for row in read_examples(storage, entry)]
    found = {row.record_row: row.record_id for row in examples}
    assert found == {0: "1", 1: "1", 2: "-5", 3: str(10**30), 4: "ü", 5: "", 6: ""}
    codes = {reject.locator.row: reject.code for reject in rejects}
    assert codes == {**dict.fromkeys((7, 8, 9, 10), "bad_type"), 11: "bad_json"}


TURNS = pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())]))
PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
SAID = [talk("<image>\nQ?", "A.")] * 3


@pytest.mark.parametrize(
    ("columns", "code"),
    [
        ({"text": pa.array(["a", "b", None])}, "missing_field"),
        ({"conversations": pa.array(["a"] * 3)}, "bad_type"),
        ({"conversations": pa.array([None] * 3, TURNS)}, "bad_type"),
        ({"conversations": pa.array([["a"]] * 3)}, "not_an_object"),
        ({"conversations": pa.array(SAID, TURNS)}, "placeholder_without_medium"),
        ({"conversations": pa.array(SAID, TURNS), "image": pa.array(["a.jpg"] * 3)}, "bad_type"),
        ({"conversations": pa.array(SAID, TURNS), "image": pa.array([b"x"] * 3)}, "bad_type"),
        ({"conversations": pa.array(SAID, TURNS), "image": pa.array([[b"x"]] * 3)}, "bad_type"),
        (
            {"conversations": pa.array(SAID, TURNS), "image": pa.array([{"path": "a.jpg"}] * 3)},
            "empty_file",
        ),
        (
            {"conversations": pa.array(SAID, TURNS), "image": pa.array([{"bytes": b"x"}] * 3)},
            "unknown_format",
        ),
        (
            {"conversations": pa.array(SAID, TURNS), "image": pa.array([{"bytes": b""}] * 3, PICTURE)},
            "empty_file",
        ),
        ({"id": pa.array([0.5, 1.5, None]), "conversations": pa.array(SAID, TURNS)}, "bad_type"),
    ],
    ids=range(12),
)
def test_parquet_with_other_columns_is_rejected_row_by_row(tmp_path, media, storage, columns, code):
    pq.write_table(pa.table(columns), tmp_path / "a.parquet", row_group_size=2)
    data = (tmp_path / "a.parquet").read_bytes()
    manifest = ingest_bytes(tmp_path, media, storage, data, "a.parquet", "onevision")
    rejects = check_account(storage, manifest, 3)
    assert rejects[0].code == code
    assert all(json.loads(reject.raw) is not None for reject in rejects)


def test_parquet_without_rows_or_columns_is_empty(tmp_path, media, storage):
    pq.write_table(pa.table({"id": pa.array([], pa.string())}), tmp_path / "a.parquet")
    data = (tmp_path / "a.parquet").read_bytes()
    assert check_account(storage, ingest_bytes(tmp_path, media, storage, data, layout="onevision"), 0) == []


@pytest.mark.parametrize("names", [["images"], ["image", "images"]])
def test_pictures_in_another_column_are_not_left_out_in_silence(tmp_path, media, storage, names):
    pictures = pa.array([[{"bytes": (media / "a.jpg").read_bytes(), "path": None}]] * 3, pa.list_(PICTURE))
    columns = dict.fromkeys(names, pictures) | {"conversations": pa.array([talk("Q?", "A.")] * 3, TURNS)}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    data = (tmp_path / "a.parquet").read_bytes()
    manifest = ingest_bytes(tmp_path, media, storage, data, layout="onevision")
    rejects = check_account(storage, manifest, 3)
    assert [reject.code for reject in rejects] == ["bad_type"] * 3


def test_rows_of_json_hold_no_pictures(tmp_path, media, storage):
    with pytest.raises(ConfigError, match=r"source s: .*a\.json is JSON, .*use the format 'llava'"):
        ingest_bytes(tmp_path, media, storage, LIST, layout="llava_next")
    assert read_objects(storage.url) == {}
