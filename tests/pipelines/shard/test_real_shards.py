"""Real pictures, clips and annotation files, hostile ones among them, from annotations to shards."""

import io
from collections import Counter

import pytest

from infra.storage import LocalStorage
from infra.tar import scan_tar
from pipelines.engine import SerialEngine
from pipelines.ingest.flow import ingest
from pipelines.ingest.tables import read_quarantine
from pipelines.shard.flow import shard
from schemas.configuration import build
from schemas.digest import sha256_hex
from schemas.recipe import Recipe

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def recipe(media_folder):
    def source(name, form, annotations, root):
        path = str(media_folder / "annotations" / annotations)
        return {"name": name, "format": form, "annotations": path, "media_root": str(media_folder / root)}

    sources = [
        source("charts", "llava", "llava_single_images.json", "images"),
        source("every", "llava", "made_llava_all_shared_images.json", "images"),
        source("clips", "llava", "llava_video.json", "videos"),
        source("questions", "video_chatgpt", "made_videoinstruct_qa.json", "videos"),
    ]
    return build({"name": "real", "sources": sources, "shards": {"max_bytes": "2MiB"}}, Recipe, "real")


@pytest.fixture(scope="module")
def built(recipe, tmp_path_factory):
    storage = LocalStorage(tmp_path_factory.mktemp("corpus"))
    ingest(recipe, storage, SerialEngine())
    return storage, shard(recipe, storage, SerialEngine())


def test_every_record_is_accounted_for(built):
    storage, manifest = built
    charts, every, clips, questions = manifest.sources
    assert (charts.read, charts.written) == (3, 3)
    assert (clips.read, clips.rejects) == (3, {"missing_file": 2})
    assert (questions.read, questions.rejects) == (3, {"missing_file": 2})
    assert every.read == every.written + every.rejected == 98
    rejects = [row for entry in manifest.quarantine for row in read_quarantine(storage, entry)]
    codes = Counter(reject.code for reject in rejects if reject.source == "every")
    assert codes == every.rejects
    hostile = {
        "missing_file",
        "empty_answer",
        "unsafe_path",
        "empty_file",
        "unknown_format",
        "image_too_large",
    }
    assert hostile <= set(codes)
    unsafe = next(reject for reject in rejects if reject.code == "unsafe_path")
    assert b"../../etc/passwd" in unsafe.raw


def test_shards_hold_the_files_as_they_were(built, media_folder):
    storage, manifest = built
    published = {
        sha256_hex(path.read_bytes())
        for name in ("images", "videos")
        for path in (media_folder / name).rglob("*")
        if path.is_file()
    }
    found = set()
    for entry in manifest.shards:
        data = storage.read_bytes(entry.tar.path)
        for member in scan_tar(io.BytesIO(data)):
            if not member.name.endswith(".json"):
                found.add(sha256_hex(data[member.offset : member.offset + member.size]))
    assert found <= published
    assert len(found) == manifest.num_media > 60
    assert len(manifest.plan) > 4
