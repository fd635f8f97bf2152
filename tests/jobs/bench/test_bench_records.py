"""The records that benchmarks read are such as the published sets hold, with the faults that were planted."""

import json
from collections import Counter
from hashlib import sha256

import msgspec
import pytest

from jobs.bench.records import BROKEN_EVERY, SEED, VERSION, WriteWorker, plan_sets, write_set
from jobs.bench.rows import ANSWER_FAULTS, TALK_FAULTS
from jobs.bench.text_pool import TextPool
from operators.annotations import LAYOUTS
from schemas.errors import RejectCode, SampleError
from schemas.record import MediumKind, Record, Repair

NUM_RECORDS = 15_000
PINNED = {
    "captions": "e93364e0ff0cd65a",
    "mix665k": "c77d0cb582e74021",
    "videos": "797971c337dbb81d",
    "extras0": "dde4a525fdfad01f",
    "extras1": "b34e2cbb610285d0",
    "extras2": "7dfc66c1f41939b3",
}
"""Digests of the files of 6,000 records."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All files of so many records."""
    folder = tmp_path_factory.mktemp("records")
    write = WriteWorker(str(folder)).build()
    for one in plan_sets(NUM_RECORDS):
        write(one)
    return folder


@pytest.fixture(scope="module")
def rows(folder):
    """Rows of every file."""
    sets = plan_sets(NUM_RECORDS)
    return {one.name: msgspec.json.decode((folder / one.file_name).read_bytes()) for one in sets}


def read_records(one, rows) -> tuple[list[Record], Counter[RejectCode]]:
    """Records of the sound rows, and the codes of the others."""
    records: list[Record] = []
    rejects: Counter[RejectCode] = Counter()
    for row in rows:
        try:
            records.append(LAYOUTS[one.format].parse(row))
        except SampleError as error:
            rejects[error.code] += 1
    return records, rejects


def find_set(name):
    return next(one for one in plan_sets(NUM_RECORDS) if one.name == name)


@pytest.mark.parametrize("num_records", [60, 1000, 999_999, 1_000_000, 3_000_000])
def test_sets_hold_all_records_and_none_too_many(num_records):
    sets = plan_sets(num_records)
    assert sum(one.num_rows for one in sets) == num_records
    assert min(one.num_rows for one in sets) > 0
    assert max(one.num_rows for one in sets) <= 700_000
    assert len({one.file_name for one in sets}) == len(sets)


@pytest.mark.parametrize("one", plan_sets(NUM_RECORDS), ids=lambda one: one.name)
def test_rows_are_sound_but_for_the_planted_faults(one, rows):
    records, rejects = read_records(one, rows[one.name])
    assert len(rows[one.name]) == one.num_rows
    assert rejects == one.count_faults()
    assert sum(rejects.values()) == one.num_rows // BROKEN_EVERY > 0
    repairs = Counter(repair for record in records for repair in record.repairs)
    assert set(repairs) == ({Repair.LEAKED_LABEL_REMOVED} if one.name == "videos" else set())


def test_every_fault_is_planted():
    planted = sum((one.count_faults() for one in plan_sets(30_000)), start=Counter())
    assert set(planted) == {code for code, _ in (*TALK_FAULTS, *ANSWER_FAULTS)}


def test_records_are_as_long_as_published_ones(folder, rows):
    sizes = {
        one.name: (folder / one.file_name).stat().st_size / one.num_rows for one in plan_sets(NUM_RECORDS)
    }
    whole = sum((folder / one.file_name).stat().st_size for one in plan_sets(NUM_RECORDS))
    assert 1300 < whole / NUM_RECORDS < 1500
    assert 300 < sizes["captions"] < 350
    assert 1700 < sizes["mix665k"] < 1900


def test_mix665k_has_its_habits(folder, rows):
    """Several rounds, ids of two types, shared pictures, and talk without pictures at the end only."""
    records, _ = read_records(find_set("mix665k"), rows["mix665k"])
    assert {type(row["id"]) for row in rows["mix665k"]} == {str, int, float}
    assert len({len(record.texts) for record in records}) == 9
    has_picture = [bool(record.media) for record in records]
    assert has_picture == sorted(has_picture, reverse=True)
    assert 0.05 < has_picture.count(False) / len(records) < 0.07
    pictures = [record.media[0].path for record in records if record.media]
    assert 0.4 < len(set(pictures)) / len(pictures) < 0.8
    data = (folder / "mix665k.json").read_bytes()
    assert data.isascii()
    assert b"\\ud83d\\ude00" in data


def test_clips_are_shared_and_have_no_extension(rows):
    records, _ = read_records(find_set("videos"), rows["videos"])
    assert all(
        media.kind is MediumKind.VIDEO and media.by_stem for record in records for media in record.media
    )
    clips = {record.media[0].path for record in records}
    assert 50 < len(clips) < len(records) / 5


def test_compact_files_are_raw_utf8_in_one_line(folder):
    data = (folder / "extras0.json").read_bytes()
    assert b"\n" not in data
    assert "東京".encode() in data


def test_files_are_what_json_reads(folder, rows):
    for one in plan_sets(NUM_RECORDS):
        assert json.loads((folder / one.file_name).read_text("utf-8")) == rows[one.name]


def test_the_same_numbers_give_the_same_bytes(tmp_path):
    """Kept files are used again by their version: other bytes need another `VERSION`, and digests here."""
    digests: dict[str, str] = {}
    for one in plan_sets(6000):
        write_set(one, tmp_path / one.file_name)
        digests[one.name] = sha256((tmp_path / one.file_name).read_bytes()).hexdigest()[:16]
    assert (VERSION, digests) == (1, PINNED)


def test_a_file_that_is_there_stays(tmp_path):
    one = find_set("videos")
    (tmp_path / one.file_name).write_bytes(b"[]")
    write_set(one, tmp_path / one.file_name)
    assert (tmp_path / one.file_name).read_bytes() == b"[]"


def test_a_row_does_not_depend_on_the_ones_before_it(rows):
    pool = TextPool(SEED)
    for name in ("captions", "mix665k", "videos", "extras2"):
        one = find_set(name)
        for index in (0, 1, BROKEN_EVERY - 1, one.num_rows - 1):
            assert one.make_row(pool, index) == rows[name][index]


def test_text_is_long_enough_and_never_blank():
    pool = TextPool(SEED)
    pieces = [pool.cut(number, 60) for number in range(2000)]
    assert all(piece.strip() == piece != "" for piece in pieces)
    assert 55 < sum(map(len, pieces)) / len(pieces) < 62
    assert min(map(len, pieces)) < 35
    assert max(map(len, pieces)) > 85
    assert len(set(pieces)) == len(pieces)
