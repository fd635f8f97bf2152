"""The same media in every kind of root give the same corpus; a second run reads none of them."""

import io
import json
import os
import tarfile
import tempfile
import zipfile

import pytest
from few_media import make_media, make_picture, talk, write_media
from watched_storage import read_objects

from infra.s3_client import connect
from infra.storage import LocalStorage, open_storage
from pipelines.engine import SerialEngine
from pipelines.ingest.flow import ingest
from pipelines.ingest.tables import read_quarantine
from pipelines.shard.flow import shard
from schemas.configuration import build
from schemas.errors import MismatchError
from schemas.recipe import Recipe

MEDIA = make_media()
NAMES = ["a.jpg", "b.png", "c.jpg", "sub/a.jpg", "same.jpg", "two.png", "gone.jpg", "cut.jpg", "../a.jpg"]
CODES = {"ambiguous_file", "missing_file", "truncated_image", "unsafe_path", "empty_file"}
ROOTS = ("folder", "tar", "zip", "s3")
FOLDERS = ("commits", "examples", "manifests", "media", "quarantine", "shards")
NUM_READ = 8
"""Media that exist: two names of one picture, one that is cut and one that is empty among them."""


def write_rows(folder):
    rows = [
        {"id": n, "image": name, "conversations": talk("<image>q", f"{n}")} for n, name in enumerate(NAMES)
    ]
    rows += [{"id": "twice", "image": ["a.jpg", "b.png"], "conversations": talk("<image><image>", "2")}]
    rows += [{"id": "clip", "video": "v_0.mkv", "conversations": talk("<video>", "v")}]
    rows += [{"id": "empty", "image": "empty.jpg", "conversations": talk("<image>", "v")}]
    (folder / "rows.json").write_text(json.dumps(rows))


def write_root(kind, folder, s3_url):
    """The media root of a kind, as a recipe names it."""
    if kind == "folder":
        return str(write_media(folder / "media"))
    if kind == "s3":
        storage = open_storage(s3_url)
        for name, data in MEDIA.items():
            storage.put(f"media/{name}", io.BytesIO(data))
        return f"{s3_url}/media"
    path = folder / f"media.{kind}"
    write_archive(path, MEDIA)
    return str(path)


def write_archive(path, media):
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in media.items():
                archive.writestr(name, data)
        return
    with tarfile.open(path, "w") as archive:
        for name, data in media.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def make_recipe(folder, root, names=("s",), **fields):
    write_rows(folder)
    sources = [
        {
            "name": name,
            "format": "llava",
            "annotations": str(folder / "rows.json"),
            "media_root": root,
            "reject_budget": 1,
            **fields,
        }
        for name in names
    ]
    values = {"name": "roots", "sources": sources, "shards": {"max_bytes": 700, "max_views": 20}}
    return build(values, Recipe, "roots")


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    """Indexes of archives are kept in the folder for temporary files: one of the test's own."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))


def told(storage):
    """What does not tell where data lay."""
    return {
        path: data
        for path, data in read_objects(storage.url).items()
        if not path.startswith(("probes", "recipes"))
    }


@pytest.fixture
def expected(tmp_path):
    """The corpus from a folder."""
    (tmp_path / "first").mkdir()
    storage = LocalStorage(tmp_path / "expected")
    recipe = make_recipe(tmp_path / "first", write_root("folder", tmp_path / "first", ""))
    manifest = ingest(recipe, storage, SerialEngine()).manifest
    assert {*manifest.sources[0].rejects} == CODES
    assert (manifest.num_media, manifest.sources[0].written) == (7, 7)
    shard(recipe, storage, SerialEngine())
    return told(storage)


@pytest.mark.parametrize("kind", ROOTS)
def test_any_root_gives_the_same_corpus_and_is_read_once(kind, tmp_path, expected, request):
    s3_url = request.getfixturevalue("s3_url") if kind == "s3" else ""
    recipe = make_recipe(tmp_path, write_root(kind, tmp_path, s3_url))
    storage = LocalStorage(tmp_path / "corpus")
    first = ingest(recipe, storage, SerialEngine())
    assert (first.probed.num_read, first.probed.num_unchanged) == (NUM_READ, 0)
    shard(recipe, storage, SerialEngine())
    assert told(storage) == expected
    again = ingest(recipe, storage, SerialEngine())
    assert (again.probed.num_read, again.probed.num_unchanged) == (0, NUM_READ)
    assert again.manifest.shards == shard(recipe, storage, SerialEngine()).shards


def test_a_corpus_on_s3_from_annotations_and_media_on_s3(tmp_path, expected, s3_url):
    write_root("s3", tmp_path, s3_url)
    recipe = make_recipe(tmp_path, f"{s3_url}/media", annotations=f"{s3_url}/rows.json")
    with (tmp_path / "rows.json").open("rb") as file:
        open_storage(s3_url).put("rows.json", file)
    storage = open_storage(f"{s3_url}/corpus")
    ingest(recipe, storage, SerialEngine())
    shard(recipe, storage, SerialEngine())
    paths = ["corpus.json", *(path for folder in FOLDERS for path in storage.list(folder))]
    assert {path: storage.read_bytes(path) for path in paths} == expected


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_two_sources_share_an_archive(kind, tmp_path):
    recipe = make_recipe(tmp_path, write_root(kind, tmp_path, ""), names=("one", "two"))
    storage = LocalStorage(tmp_path / "corpus")
    first = ingest(recipe, storage, SerialEngine())
    one, two = first.manifest.sources
    assert one.model_dump(exclude={"name"}) == two.model_dump(exclude={"name"})
    assert first.manifest.num_media == 7
    assert first.manifest.num_media_uses == one.num_media + two.num_media == 16
    assert shard(recipe, storage, SerialEngine()).shards
    assert ingest(recipe, storage, SerialEngine()).probed.num_read == 0


@pytest.mark.parametrize("kind", ["tar", "zip", "s3"])
def test_what_changed_in_a_root_is_read_again(kind, tmp_path, request):
    s3_url = request.getfixturevalue("s3_url") if kind == "s3" else ""
    recipe = make_recipe(tmp_path, write_root(kind, tmp_path, s3_url))
    storage = LocalStorage(tmp_path / "corpus")
    before = ingest(recipe, storage, SerialEngine()).manifest
    other = make_picture(77, "PNG", 9)
    if kind == "s3":
        bucket, _, prefix = s3_url.removeprefix("s3://").partition("/")
        connect().call_s3("put_object", Bucket=bucket, Key=f"{prefix}/media/b.png", Body=other)
    else:
        path = tmp_path / f"media.{kind}"
        write_archive(path, MEDIA | {"b.png": other})
        os.utime(path, ns=(1, 1))
    with pytest.raises(MismatchError, match="changed"):
        shard(recipe, storage, SerialEngine())
    after = ingest(recipe, storage, SerialEngine())
    assert after.probed.num_read == (1 if kind == "s3" else NUM_READ)
    assert after.manifest.media_digest != before.media_digest
    assert shard(recipe, storage, SerialEngine()).shards


def test_links_are_followed_where_the_recipe_allows(tmp_path):
    root = tmp_path / "media"
    write_media(tmp_path / "elsewhere")
    root.mkdir()
    for name in MEDIA:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).symlink_to(tmp_path / "elsewhere" / name)
    storage = LocalStorage(tmp_path / "corpus")
    strict = ingest(make_recipe(tmp_path, str(root)), storage, SerialEngine()).manifest
    assert strict.sources[0].rejects["unsafe_path"] > 5
    assert strict.sources[0].written == 0
    recipe = make_recipe(tmp_path, str(root), also_under=[str(tmp_path / "elsewhere")])
    wide = ingest(recipe, storage, SerialEngine())
    assert wide.manifest.sources[0].written == 7
    rejects = [row for entry in wide.manifest.quarantine for row in read_quarantine(storage, entry)]
    assert {reject.code for reject in rejects} == CODES
    assert shard(recipe, storage, SerialEngine()).shards
    assert ingest(recipe, storage, SerialEngine()).probed.num_read == 0
    target = tmp_path / "elsewhere/a.jpg"
    target.write_bytes(make_picture(55))
    assert ingest(recipe, storage, SerialEngine()).probed.num_read == 1
