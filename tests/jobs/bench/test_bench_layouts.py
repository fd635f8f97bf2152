"""Files of every layout: written the same twice, and every record of them is written or lost as planted."""

import gzip
from collections import Counter
from io import BytesIO

import msgspec
import pyarrow.parquet as pq
import pytest
from PIL import Image

from infra.storage import open_storage
from jobs.bench.embedded_pictures import TIFF_EVERY, draw_picture
from jobs.bench.layout_rows import (
    CLIP_FAULTS,
    EMBEDDED_FAULTS,
    INTERLEAVED_FAULTS,
    LINE_FAULTS,
    MESSAGE_FAULTS,
    write_long_caption,
)
from jobs.bench.layout_scale import CORPUS, ingest_layouts, tell_fate, write_layouts
from jobs.bench.layouts import RECIPE, make_recipe, plan_sources
from jobs.bench.records import SEED, RecordSet, write_set
from jobs.bench.rows import ANSWER_FAULTS, TALK_FAULTS
from jobs.bench.spelling import COMPACT, Spelling
from jobs.bench.text_pool import TextPool
from operators.annotations import LAYOUTS
from operators.image_header import read_image_header
from operators.sniff import JPEG, TIFF
from pipelines.commit import load_manifest
from pipelines.engine import SerialEngine
from pipelines.ingest.tables import read_examples, read_media, read_quarantine
from schemas.configuration import parse_yaml
from schemas.errors import RejectCode, SampleError, WorkError
from schemas.recipe import Recipe
from schemas.record import MediumKind, Repair, encode_conversation

NUM_RECORDS = 4000
SOURCES = plan_sources(NUM_RECORDS, broken_every=7)
"""So many faults that each comes to pass."""
FAULTS = (
    *TALK_FAULTS,
    *ANSWER_FAULTS,
    *LINE_FAULTS,
    *CLIP_FAULTS,
    *INTERLEAVED_FAULTS,
    *MESSAGE_FAULTS,
    *EMBEDDED_FAULTS,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All files of so many records."""
    folder = tmp_path_factory.mktemp("layouts")
    write_layouts(folder, SOURCES, SerialEngine())
    return folder


@pytest.fixture(scope="module")
def run(folder):
    """What ingest says of them."""
    return ingest_layouts(folder, SOURCES, SerialEngine())


@pytest.fixture(scope="module")
def corpus(folder, run):
    """Storage and manifest."""
    storage = open_storage(folder / CORPUS)
    return storage, load_manifest(storage)


def read_all(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and CORPUS not in path.relative_to(folder).parts
    }


def list_taken():
    """Source, file, number, and the row: all that are taken, in order."""
    pool = TextPool(SEED)
    for source in SOURCES:
        for file in source.files:
            for index in range(file.start, file.stop):
                yield source, file.records.file_name.split("/")[-1], index, file.records.make_row(pool, index)


def parse_fully(layout, row):
    """What a row says, or the code that its own fields call for; pictures are looked at, too."""
    if isinstance(row.get("score"), msgspec.Raw):
        return RejectCode.BAD_JSON
    try:
        record = layout.parse(row)
        if layout.is_embedded and row["image"]:
            for picture in row["image"] if isinstance(row["image"], list) else [row["image"]]:
                read_image_header(picture["bytes"])
    except SampleError as error:
        return error.code
    return record.record_id, encode_conversation(record.texts)


@pytest.mark.parametrize("num_records", [60, 1000, 999_999, 3_000_000])
def test_sources_hold_all_records(num_records):
    sources = plan_sources(num_records)
    assert sum(source.num_records for source in sources) == num_records
    assert min(file.records.num_rows for source in sources for file in source.files) > 0
    assert {source.format for source in sources} == set(LAYOUTS)
    spellings = {file.records.spelling for source in sources for file in source.files}
    assert {one.suffix for one in spellings} == {".json", ".jsonl", ".jsonl.gz", ".parquet"}
    names = [file.records.file_name for source in sources for file in source.files]
    assert len(set(names)) == len(names)


def test_the_same_number_gives_the_same_bytes(folder, tmp_path):
    write_layouts(tmp_path, SOURCES, SerialEngine())
    again = read_all(tmp_path)
    assert again == read_all(folder)
    assert RECIPE in again


def test_nothing_is_lost(run):
    for source in SOURCES:
        fate = run.sources[source.name]
        assert fate.read == source.num_records == fate.written + fate.rejected + fate.not_taken
        assert fate.rejects == source.count_faults()
    assert sum(fate.read for fate in run.sources.values()) == NUM_RECORDS
    assert run.sources["listed"].not_taken > 0


def test_every_fault_comes_to_pass():
    planted = sum((Counter(source.count_faults()) for source in SOURCES), start=Counter())
    assert set(planted) == {code.value for code, _ in FAULTS}


@pytest.fixture(scope="module")
def wanted():
    """What becomes of every row that is taken, in order, as its layout reads it by itself."""
    return [
        (source.name, name, index, parse_fully(LAYOUTS[source.format], row))
        for source, name, index, row in list_taken()
    ]


def test_examples_are_those_of_the_rows(corpus, wanted):
    storage, manifest = corpus
    rows = [row for entry in manifest.examples for row in read_examples(storage, entry)]
    assert rows == sorted(rows, key=lambda row: (row.item_key, row.example_id))
    places = {one[:3]: place for place, one in enumerate(wanted)}
    found = [(row.source, row.record_file, row.record_row, (row.record_id, row.conversation)) for row in rows]
    sound = [one for one in wanted if not isinstance(one[3], RejectCode)]
    assert sorted(found, key=lambda one: places[one[:3]]) == sound


def test_rejects_are_those_of_the_rows_in_order(corpus, wanted):
    storage, manifest = corpus
    found = [
        (reject.source, reject.locator.file, reject.locator.row, reject.code)
        for entry in manifest.quarantine
        for reject in read_quarantine(storage, entry)
    ]
    for source in SOURCES:
        lost = [one for one in wanted if one[0] == source.name and isinstance(one[3], RejectCode)]
        assert [one for one in found if one[0] == source.name] == lost


def test_several_pictures_stand_in_their_order(corpus):
    storage, manifest = corpus
    media = [row for entry in manifest.media for row in read_media(storage, entry)]
    assert {row.facts.kind for row in media} == set(MediumKind)
    assert max(row.position for row in media) == 4
    for name in ("panels", "interleaved"):
        (file,) = next(source.files for source in SOURCES if source.name == name)
        assert any(row.source == name and row.position for row in media), file.records.file_name


def test_words_for_clips_are_mended(corpus):
    _, manifest = corpus
    repairs = {totals.name: totals.repairs for totals in manifest.sources}
    assert set(repairs["clips"]) == {Repair.VIDEO_PLACEHOLDER_RENAMED.value}
    assert set(repairs["videos"]) == {Repair.LEAKED_LABEL_REMOVED.value}
    others = [name for name, found in repairs.items() if found and name not in ("clips", "videos")]
    assert others == []


def test_the_recipe_is_for_anybody(folder):
    """Of relative paths, and the one that was read."""
    assert parse_yaml((folder / RECIPE).read_text(), Recipe, RECIPE) == make_recipe(SOURCES)
    assert str(folder) not in (folder / RECIPE).read_text() + (folder / "listed.yaml").read_text()


def test_a_lost_record_fails(corpus):
    _, manifest = corpus
    for source, totals in zip(SOURCES, manifest.sources, strict=True):
        tell_fate(source, totals)
        with pytest.raises(WorkError, match=f"source {source.name}: .* it should be"):
            tell_fate(source, totals.model_copy(update={"written": totals.written - 1}))


@pytest.mark.parametrize(
    "spelling",
    [
        COMPACT,
        Spelling(indent=4, escapes=True),
        Spelling(is_packed=True),
        Spelling(container="lines"),
        Spelling(container="lines", escapes=True, is_packed=True),
    ],
    ids=str,
)
def test_every_spelling_says_the_same(tmp_path, spelling):
    one = RecordSet(
        name="one",
        format="llava",
        num_rows=2001,
        num_media=9,
        write_row=write_long_caption,
        spelling=spelling,
    )
    pool = TextPool(SEED)
    write_set(one, tmp_path / one.file_name)
    data = (tmp_path / one.file_name).read_bytes()
    if spelling.is_packed:
        data = gzip.decompress(data)
    assert data.isascii() == spelling.escapes
    decode = msgspec.json.Decoder().decode_lines if spelling.container == "lines" else msgspec.json.decode
    assert decode(data) == [one.make_row(pool, index) for index in range(one.num_rows)]


def test_parquet_has_the_published_columns(folder):
    files = {source.name: source.files[0].records for source in SOURCES}
    for name in ("onevision", "llava-next", "panels"):
        table = pq.read_table(folder / files[name].file_name)
        assert table.column_names == ["id", "image", "conversations", "data_source"]
        pool = TextPool(SEED)
        assert table.to_pylist() == [files[name].make_row(pool, index) for index in range(len(table))]


def test_pictures_are_sound_small_and_all_different():
    pictures = [draw_picture(number) for number in range(64)]
    assert len(set(pictures)) == len(pictures)
    assert max(map(len, pictures)) < 400
    for number, data in enumerate(pictures):
        facts = read_image_header(data)
        assert facts == (JPEG if number % TIFF_EVERY else TIFF, 16, 12)
        with Image.open(BytesIO(data)) as picture:
            picture.load()
    shown = [Image.open(BytesIO(data)).tobytes() for data in pictures[::TIFF_EVERY]]
    assert len(set(shown)) == len(shown)
