"""A whole job over real pictures, clips and annotation files, hostile ones among them."""

import io
import json
import math
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageFile
from small_job import SmallJob, run_onetoken, talk, training_document, write_encoder, write_llm, write_yaml

from infra.storage import LocalStorage
from pipelines.commit import load_manifest
from pipelines.ingest.tables import read_quarantine

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

QUESTION = "What is shown?"
EMBEDDED = ("extreme_ironing.jpg", "hopper.webp", "camera.png")
REJECTED_PICTURES = {
    "broken_data_stream.png": "truncated_image",
    "decompression_bomb.gif": "image_too_large",
    "decompression_bomb.ico": "unknown_format",
    "hopper.avif": "unknown_format",
    "made_1x1.png": "image_too_small",
    "made_bomb_20000x20000.png": "image_too_large",
    "made_html.jpg": "unknown_format",
    "made_trunc50.jpg": "truncated_image",
    "made_trunc95.jpg": "truncated_image",
    "made_zero.jpg": "empty_file",
    "no_palette.gif": "image_too_small",
    "rot1mir0.avif": "unknown_format",
    "test-card-lossy-tiled.jp2": "unknown_format",
    "truncated_image.png": "truncated_image",
    "truncated_jpeg.jpg": "truncated_image",
    "ultrahdr.jpg": "truncated_image",
    "no_such_file.jpg": "missing_file",
    "../../etc/passwd": "unsafe_path",
}
REJECTED_CLIPS = {
    "made_audio_coverart.mp4": "no_video_stream",
    "made_audio_only.m4a": "no_video_stream",
    "made_html.mp4": "unknown_format",
    "made_moov_cut.mp4": "damaged_video",
    "made_trunc60.avi": "truncated_video",
    "made_trunc_faststart60.mp4": "truncated_video",
    "made_zero.mp4": "empty_file",
}
MISSING_CLIPS = {"v_7bUu05RIksU.mp4": "missing_file", "v_TpB_zMG3XBA.mp4": "missing_file"}
REJECTED_FEATURES = {"unsupported_pixels": 1}  # hopper.Lab.tif


def write_every_clip(media: Path, path: Path) -> Path:
    """A LLaVA file that asks about every clip of the folder."""
    names = sorted(p.relative_to(media).as_posix() for p in media.rglob("*") if p.is_file())
    rows = [
        {"id": name, "video": name, "conversations": talk(f"<video>\n{QUESTION}", Path(name).stem)}
        for name in names
    ]
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def write_parquet(images: Path, path: Path) -> Path:
    """Real pictures in OneVision's layout."""
    rows = [
        {
            "id": name,
            "image": {"bytes": (images / name).read_bytes(), "path": None},
            "conversations": talk(f"<image>\n{QUESTION}", Path(name).stem),
            "data_source": "real",
        }
        for name in EMBEDDED
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def write_real_job(media: Path, folder: Path) -> SmallJob:
    def source(name: str, form: str, annotations: Path, root: str | None) -> dict[str, object]:
        where = {"media_root": str(media / root)} if root else {}
        return {"name": name, "format": form, "annotations": str(annotations), "reject_budget": 1.0} | where

    published = media / "annotations"
    sources = [
        source("charts", "llava", published / "llava_single_images.json", "images"),
        source("pictures", "llava", published / "made_llava_all_shared_images.json", "images"),
        source("clips", "llava", published / "llava_video.json", "videos"),
        source("questions", "video_chatgpt", published / "made_videoinstruct_qa.json", "videos"),
        source("every_clip", "llava", write_every_clip(media / "videos", folder / "clips.json"), "videos"),
        source("parquet", "onevision", write_parquet(media / "images", folder / "real.parquet"), None),
    ]
    job = SmallJob(folder)
    recipe = {
        "name": "real",
        "sources": sources,
        "views": {"video": {"fps": 1, "max_frames": 2}},
        "encoder": {"model": str(write_encoder(job.encoder)), "dtype": "float32", "batch_size": 16},
    }
    write_yaml(job.recipe, recipe)
    llm = str(write_llm(folder / "llm"))
    for number in (1, 2):
        document = training_document(job, number, llm)
        write_yaml(job.stage(number), document)
    return job


@pytest.fixture(scope="module")
def job(media_folder, tmp_path_factory):
    return write_real_job(media_folder, tmp_path_factory.mktemp("real"))


@pytest.fixture(scope="module")
def built(job):
    outcome = run_onetoken("build", job.recipe, "--corpus", job.corpus, "--json")
    assert outcome.status == 0, outcome.err
    return outcome.values


@pytest.fixture(scope="module")
def trained(job, built):
    values = {}
    for number in (1, 2):
        outcome = run_onetoken("train", job.stage(number), "--json")
        assert outcome.status == 0, outcome.err
        values[number] = outcome.values
    return values


def read_rejects(job: SmallJob) -> dict[str, dict[str, str]]:
    """Code by medium (or record, where it names none), by source, as the quarantine tells."""
    storage = LocalStorage(job.corpus)
    found: dict[str, dict[str, str]] = {}
    for entry in load_manifest(storage).quarantine:
        for reject in read_quarantine(storage, entry):
            row = json.loads(reject.raw)
            name = row.get("image") or row.get("video") or row.get("video_id")
            found.setdefault(reject.source, {})[name] = reject.code
    return found


def test_every_record_is_written_or_rejected(built, media_folder):
    sources = built["sources"]
    assert built["read"] == built["written"] + built["rejected"]
    assert all(one["read"] == one["written"] + one["rejected"] for one in sources.values())
    num_clips = sum(path.is_file() for path in (media_folder / "videos").rglob("*"))
    reads = {name: one["read"] for name, one in sources.items()}
    assert reads == {
        "charts": 3,
        "pictures": 98,
        "clips": 3,
        "questions": 3,
        "every_clip": num_clips,
        "parquet": len(EMBEDDED),
    }
    written = {name: one["written"] for name, one in sources.items() if not one["rejects"]}
    assert written == {"charts": 3, "parquet": len(EMBEDDED)}


def test_each_bad_file_is_rejected_by_name(built, job):
    without_answer = {"123_456.jpg": "empty_answer"}
    assert read_rejects(job) == {
        "pictures": REJECTED_PICTURES | without_answer,
        "clips": MISSING_CLIPS,
        "questions": {Path(name).stem: code for name, code in MISSING_CLIPS.items()},
        "every_clip": REJECTED_CLIPS,
    }
    assert built["feature_rejects"] == REJECTED_FEATURES


def test_rejected_pictures_are_bad_for_others_too(media_folder):
    """Pillow, left to itself, does not decode what is rejected as truncated; the rest it decodes."""
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    truncated = [name for name, code in REJECTED_PICTURES.items() if code == "truncated_image"]
    assert "ultrahdr.jpg" in truncated
    for name in truncated:
        with (
            pytest.raises((OSError, SyntaxError)),
            Image.open(io.BytesIO((media_folder / "images" / name).read_bytes())) as picture,
        ):
            picture.load()


def test_features_are_made_of_all_that_is_left(built, job):
    assert built["items"] > 100
    assert built["views"] > 5 * 75
    again = run_onetoken("build", job.recipe, "--corpus", job.corpus, "--json")
    codes = [*REJECTED_PICTURES.values(), *MISSING_CLIPS.values()]
    num_never_opened = codes.count("missing_file") + codes.count("unsafe_path")
    assert built["media_unchanged"] == 0
    num_unchanged = built["media_read"] + num_never_opened
    nothing_done = {"media_read": 0, "media_unchanged": num_unchanged, "throughput": {}}
    assert again.values == {**built, **nothing_done}
    assert "featurize:" not in again.said


def test_both_stages_train_on_them(trained):
    for values in trained.values():
        assert values["steps"] > 1
        assert math.isfinite(values["first_loss"])
        assert math.isfinite(values["last_loss"])


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("--image", "images/mscoco_twocat_000000039769.jpg"),
        ("--image", "images/Landscape_6.jpg"),
        ("--video", "videos/safari.mp4"),
        ("--video", "videos/flipping_a_pancake.mkv"),
    ],
)
def test_generate_answers_about_real_media(trained, job, media_folder, option, name):
    command = ("generate", job.out(2), QUESTION, option, media_folder / name, "--max-new-tokens", 3, "--json")
    first, second = run_onetoken(*command), run_onetoken(*command)
    assert first.status == 0, first.err
    assert first.values["question"] == QUESTION
    assert first.values == second.values


def test_inspect_agrees_about_real_media(media_folder, tmp_path):
    turned = run_onetoken("inspect", media_folder / "images/Landscape_6.jpg", "--json").values
    upright = run_onetoken("inspect", media_folder / "images/Landscape_1.jpg", "--json").values
    assert turned["width_px"] > turned["height_px"]
    assert turned["width_px"] == upright["width_px"]
    shutil.copy(media_folder / "videos/made_vp9_10s.webm", tmp_path / "renamed.mp4")
    clip = run_onetoken("inspect", tmp_path / "renamed.mp4", "--json").values
    assert (clip["extension"], len(clip["times_s"])) == ("webm", 10)
    page = run_onetoken("inspect", media_folder / "images/made_html.jpg")
    assert (page.status, page.out) == (1, "")
    assert "unknown_format" in page.said
