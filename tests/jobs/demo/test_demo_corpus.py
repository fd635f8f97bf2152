"""The rendered corpus has the published shapes, its faults stand where it says, and ingest agrees."""

import hashlib
import io
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from page_reading import read_page
from PIL import Image, UnidentifiedImageError

from infra.storage import open_storage
from jobs.demo.corpus import DemoCorpus, render_demo_corpus
from jobs.demo.faults import Fault, FaultyRow, plant_rows
from jobs.demo.language import NOISY_LABEL
from jobs.demo.layouts import VideoRecord
from pipelines.commit import load_manifest
from pipelines.engine import SerialEngine
from pipelines.ingest.flow import ingest
from pipelines.ingest.tables import read_quarantine
from pipelines.report.page import gather_report, render_page
from schemas.corpus import Manifest
from schemas.errors import RejectCode
from schemas.recipe import Recipe, SourceConfig
from schemas.record import Repair


def file_digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def read_rows(corpus: DemoCorpus, name: str) -> list[Any]:
    rendered = next(one for one in corpus.sets if one.name == name)
    if name != "onevision":
        return json.loads(rendered.annotations[0].read_bytes())
    return [row for path in rendered.annotations for row in pq.read_table(path).to_pylist()]


def decodes(data: bytes) -> bool:
    try:
        Image.open(io.BytesIO(data)).load()
    except (UnidentifiedImageError, OSError):
        return False
    return True


def make_recipe(corpus: DemoCorpus) -> Recipe:
    return Recipe(
        name="demo",
        sources=[
            SourceConfig(
                name=one.name,
                format=one.format,
                annotations=[str(path) for path in one.annotations],
                media_root=None if one.media_root is None else str(one.media_root),
            )
            for one in corpus.sets
        ],
    )


@pytest.fixture(scope="module")
def ingested(demo_corpus: DemoCorpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(tmp_path_factory.mktemp("ingested"))
    ingest(make_recipe(demo_corpus), open_storage(folder), SerialEngine())
    return folder


def test_the_same_seed_gives_the_same_files(demo_corpus: DemoCorpus, tmp_path: Path):
    again = render_demo_corpus(tmp_path)
    digests = file_digests(tmp_path)
    assert len(digests) > 350
    assert digests == file_digests(demo_corpus.folder)
    assert again.faults == demo_corpus.faults


def test_its_size_is_what_the_demo_promises(demo_corpus: DemoCorpus):
    assert 290 <= demo_corpus.num_media <= 310
    assert 1450 <= demo_corpus.num_records <= 1550
    for one in demo_corpus.sets:
        assert one.num_records == len(read_rows(demo_corpus, one.name))


def test_captions_have_the_published_shape(demo_corpus: DemoCorpus):
    rows = read_rows(demo_corpus, "captions")
    assert all(list(row) == ["id", "image", "conversations"] for row in rows)
    assert all(row["image"] == f"{row['id'][:5]}/{row['id']}.jpg" and len(row["id"]) == 9 for row in rows)
    turns = [[turn["from"] for turn in row["conversations"]] for row in rows]
    assert turns == [["human", "gpt"]] * len(rows)
    questions = [row["conversations"][0]["value"] for row in rows]
    places = Counter((text.startswith("<image>\n"), text.endswith("\n<image>")) for text in questions)
    assert set(places) == {(True, False), (False, True)}
    assert len({row["image"] for row in rows}) == len(rows)


def test_instructions_have_the_published_shape(demo_corpus: DemoCorpus):
    rows = [row for row in read_rows(demo_corpus, "instructions") if isinstance(row, dict)]
    shapes = Counter(tuple(row) for row in rows)
    assert set(shapes) == {("id", "image", "conversations"), ("id", "model", "conversations")}
    assert all(row["model"] == "" for row in rows if "model" in row)
    assert {type(row["id"]) for row in rows} == {int, str}
    folders = Counter(str(Path(row["image"]).parent) for row in rows if "image" in row)
    assert set(folders) > {
        "coco/train2017",
        "gqa/images",
        "ocr_vqa/images",
        "textvqa/train_images",
        "vg/VG_100K",
        "vg/VG_100K_2",
    }
    uses = Counter(
        row["image"] for row in rows if row.get("image", "").startswith("coco/train2017/0000000330")
    )
    assert min(uses.values()) > 4
    lengths = Counter(len(row["conversations"]) for row in rows)
    assert lengths[2] > 300
    assert sum(count for length, count in lengths.items() if length > 2) > 300


def test_one_picture_lies_under_two_names(demo_corpus: DemoCorpus):
    folder = demo_corpus.folder / "llava_instruct"
    digests = Counter(hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*.jpg"))
    assert sorted(digests.values())[-2:] == [1, 2]


def test_videos_have_the_published_shape(demo_corpus: DemoCorpus):
    rows = [row for row in read_rows(demo_corpus, "videos") if isinstance(row, dict)]
    assert all(list(row) == ["q", "a", "video_id"] for row in rows)
    assert all(len(row["video_id"]) == 13 and row["video_id"].startswith("v_") for row in rows)
    leaks = sum(row["a"].endswith(f"\n{NOISY_LABEL}") for row in rows)
    assert 0 < leaks < len(rows) / 4
    files = list((demo_corpus.folder / "video_chatgpt/videos").iterdir())
    assert {path.suffix for path in files} == {".mp4", ".mkv", ".webm"}
    assert {path.name[:3] for path in files} >= {"v_-", "v__"}


def test_onevision_has_the_published_columns(demo_corpus: DemoCorpus):
    rendered = demo_corpus.sets[3]
    schema = pq.read_schema(rendered.annotations[0])
    assert schema.names == ["id", "image", "conversations", "data_source"]
    assert str(schema.field("image").type) == "struct<bytes: binary, path: string>"
    assert str(schema.field("id").type) == "string"
    rows = read_rows(demo_corpus, "onevision")
    assert sum(row["image"] is None for row in rows) > 10
    assert all(row["image"]["path"] is None for row in rows if row["image"])
    assert any("/" in row["id"] and "." in row["id"] for row in rows)


def test_every_known_fault_is_planted_and_is_what_it_is_called(demo_corpus: DemoCorpus):
    assert {fault.fault for fault in demo_corpus.faults} == set(Fault)
    for fault in demo_corpus.faults:
        rendered = next(one for one in demo_corpus.sets if one.name == fault.source)
        row = read_rows(demo_corpus, fault.source)[fault.row]
        assert isinstance(row, dict) != (fault.fault is Fault.NOT_AN_OBJECT)
        if fault.fault in (Fault.TRUNCATED_JPEG, Fault.GIF_NAMED_JPG):
            image = row["image"]
            data = image["bytes"] if isinstance(image, dict) else (rendered.media_root / image).read_bytes()
            assert decodes(data) == (fault.fault is Fault.GIF_NAMED_JPG)
            assert data[:3] == (b"GIF" if fault.fault is Fault.GIF_NAMED_JPG else b"\xff\xd8\xff")


def test_ingest_rejects_the_planted_rows_with_their_codes_and_no_others(
    demo_corpus: DemoCorpus, ingested: Path
):
    storage = open_storage(ingested)
    manifest = load_manifest(storage)
    names: dict[str, str] = {}
    for one in demo_corpus.sets:
        shared = os.path.commonpath([path.parent for path in one.annotations])
        names[one.name] = one.annotations[0].relative_to(shared).as_posix()
    expected = {
        (fault.source, names[fault.source], fault.row): str(fault.outcome)
        for fault in demo_corpus.faults
        if isinstance(fault.outcome, RejectCode)
    }
    found = {
        (reject.source, reject.locator.file, reject.locator.row): str(reject.code)
        for entry in manifest.quarantine
        for reject in read_quarantine(storage, entry)
    }
    assert len(expected) > 10
    assert found == expected


def test_the_report_shows_the_planted_rejects_by_code(demo_corpus: DemoCorpus, ingested: Path):
    storage = open_storage(ingested)
    report = gather_report(storage, load_manifest(storage))
    planted = Counter(
        (fault.source, str(fault.outcome))
        for fault in demo_corpus.faults
        if isinstance(fault.outcome, RejectCode)
    )
    assert {(group.source, group.code): group.count for group in report.rejects} == planted
    shown = read_page(render_page(report)).text
    assert all(f"{count} {code} of {source}" in shown for (source, code), count in planted.items())


def test_ingest_counts_what_was_rendered(demo_corpus: DemoCorpus, ingested: Path):
    manifest: Manifest = load_manifest(open_storage(ingested))
    assert manifest.num_media == demo_corpus.num_media
    assert {total.name: total.read for total in manifest.sources} == {
        one.name: one.num_records for one in demo_corpus.sets
    }
    assert all(total.rejected < 0.05 * total.read for total in manifest.sources)
    repairs = {total.name: total.repairs for total in manifest.sources}
    mended = sum(fault.outcome is Repair.PLACEHOLDER_ADDED for fault in demo_corpus.faults)
    assert repairs["instructions"] == {Repair.PLACEHOLDER_ADDED: mended}
    assert repairs["videos"][Repair.LEAKED_LABEL_REMOVED] > 0


def test_heldout_answers_are_balanced_and_unseen(demo_corpus: DemoCorpus):
    heldout = demo_corpus.heldout
    rows = json.loads(heldout.annotations.read_bytes())
    assert len(rows) == heldout.num_questions >= 240
    kinds = {row["kind"] for row in rows}
    for kind in kinds:
        answers = Counter(row["conversations"][1]["value"] for row in rows if row["kind"] == kind)
        candidates = next(row["candidates"] for row in rows if row["kind"] == kind)
        assert set(answers) == set(candidates)
        assert len(set(answers.values())) == 1
    media = {row.get("image") or row["video"] for row in rows}
    assert len(media) == heldout.num_media
    seen = set(file_digests(demo_corpus.folder / "llava_instruct").values())
    seen |= set(file_digests(demo_corpus.folder / "llava_pretrain").values())
    seen |= set(file_digests(demo_corpus.folder / "video_chatgpt").values())
    assert not seen & set(file_digests(heldout.media_root).values())
    chances = [1 / len(row["candidates"]) for row in rows]
    assert heldout.chance == pytest.approx(sum(chances) / len(chances))


def test_faulty_rows_are_spread_and_found_again():
    rows = [VideoRecord("q", "a", str(number)) for number in range(10)]
    faulty = [
        FaultyRow(Fault.NOT_AN_OBJECT, RejectCode.NOT_AN_OBJECT, f"bad {number}") for number in range(3)
    ]
    mixed, planted = plant_rows("videos", rows, faulty)
    assert [row for row in mixed if isinstance(row, VideoRecord)] == rows
    assert [mixed[fault.row] for fault in planted] == ["bad 0", "bad 1", "bad 2"]
    assert [fault.row for fault in planted] == [2, 6, 9]
