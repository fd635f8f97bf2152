"""Where the media of a recipe are: every kind of root, named wrongly in every way."""

import pickle
import tarfile
import tempfile
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_media_bucket import url  # noqa: F401

from infra.files import FileState
from infra.storage import open_storage
from pipelines.ingest.media.reader import MediaReader, MediaSource, locate_media
from schemas.errors import ConfigError, CorruptError, SampleError
from schemas.recipe import Recipe, SourceConfig
from schemas.record import MediumKind, MediumReference

A = MediumReference(MediumKind.IMAGE, "a.jpg")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "also").mkdir()
    (tmp_path / "folder/a.jpg").write_bytes(b"folder")
    (tmp_path / "also/b.jpg").write_bytes(b"also")
    (tmp_path / "folder/b.jpg").symlink_to("../also/b.jpg")
    with zipfile.ZipFile(tmp_path / "media.zip", "w") as archive:
        archive.writestr("a.jpg", b"zip")
    with tarfile.open(tmp_path / "media.tar", "w") as archive:
        archive.add(tmp_path / "folder/a.jpg", "a.jpg")
    (tmp_path / "linked").symlink_to("folder")
    (tmp_path / "linked.zip").symlink_to("media.zip")
    return tmp_path


def configure(name="s", **fields):
    return SourceConfig(name=name, **({"format": "llava", "annotations": "a.json"} | fields))


@pytest.mark.parametrize(
    ("root", "kind", "data"),
    [
        ("folder", "folder", b"folder"),
        ("folder/", "folder", b"folder"),
        ("linked", "folder", b"folder"),
        ("media.zip", "archive", b"zip"),
        ("linked.zip", "archive", b"zip"),
        ("media.tar", "archive", b"folder"),
    ],
)
def test_a_reader_travels_and_finds_its_media(here, root, kind, data):
    sources = locate_media([configure(media_root=root), configure("text", media_root=None)], here)
    assert [(source.name, source.kind) for source in sources] == [("s", kind)]
    reader = MediaReader(pickle.loads(pickle.dumps(sources)))
    location = reader.find("s", A)
    assert reader.state("s", location).num_bytes == len(data)
    assert reader.read("s", location, MediumKind.IMAGE) == data
    assert reader.describe("s", location) == f"{reader.root_of('s')}/a.jpg"
    assert reader.root_of("s") == str(here / root.rstrip("/"))


def test_an_absolute_root_and_a_file_url_are_what_they_say(here):
    for root in (str(here / "folder"), f"file://{here}/folder"):
        assert locate_media([configure(media_root=root)], here / "also")[0].url == str(here / "folder")


def test_links_lead_where_the_recipe_allows(here):
    b = MediumReference(MediumKind.IMAGE, "b.jpg")
    strict = MediaReader(locate_media([configure(media_root="folder")], here))
    with pytest.raises(SampleError, match="also_under"):
        strict.find("s", b)
    wide = MediaReader(locate_media([configure(media_root="folder", also_under=["also"])], here))
    assert wide.read("s", wide.find("s", b), MediumKind.IMAGE) == b"also"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"media_root": "nowhere"}, "source s: media_root nowhere is no folder, no tar and no zip"),
        (
            {"media_root": "folder/a.jpg"},
            "media_root folder/a.jpg: .* is no folder, no tar and no zip",
        ),
        ({"media_root": "folder", "also_under": ["nowhere"]}, "source s: also_under nowhere is no folder"),
        ({"media_root": "media.zip", "also_under": ["also"]}, "remove also_under"),
        ({"media_root": "gs://bucket/x"}, "no files at gs://"),
        ({"media_root": "s3://b"}, "can be no bucket"),
    ],
)
def test_roots_that_cannot_be_read_are_named(here, fields, message):
    with pytest.raises(ConfigError, match=message):
        locate_media([configure(**fields)], here)


def test_where_links_may_lead_decides_no_bytes(here):
    def digest_with(**fields):
        return Recipe(name="r", sources=[configure(media_root="folder", **fields)]).ingest_digest

    assert digest_with(also_under=["also"]) == digest_with()


def test_pictures_in_the_rows_are_read_by_row_and_place(here):
    rows = [{"image": {"bytes": b"first", "path": None}}, {"image": {"bytes": b"second", "path": None}}]
    pq.write_table(pa.Table.from_pylist(rows), here / "one.parquet")
    (source,) = locate_media([configure(format="onevision", annotations="one.parquet")], here)
    reader = MediaReader([source])
    location = reader.find("s", MediumReference(MediumKind.IMAGE, "one.parquet#1"))
    assert reader.read("s", location, MediumKind.IMAGE) == b"second"
    assert reader.read("s", "one.parquet#0/0", MediumKind.IMAGE) == b"first"
    status = (here / "one.parquet").stat()
    assert reader.state("s", location) == FileState(status.st_size, status.st_mtime_ns)
    assert source.is_embedded
    assert reader.root_of("s") == str(here)


def test_a_damaged_archive_is_named_at_the_start(here):
    (here / "cut.zip").write_bytes((here / "media.zip").read_bytes()[:-5])
    with pytest.raises(CorruptError, match=r"cut\.zip: its end is missing"):
        locate_media([configure(media_root="cut.zip")], here)


def test_a_source_without_media_is_named_when_its_records_have_some():
    with pytest.raises(ConfigError, match="give the source a media_root"):
        MediaReader([]).find("s", A)
    with pytest.raises(ConfigError, match="give the source a media_root"):
        MediaReader([]).describe("s", "a.jpg")


def test_a_prefix_is_a_root_and_an_archive_on_s3_is_not(here, url):  # noqa: F811
    (source,) = locate_media([configure(media_root=url)], here)
    assert source == MediaSource("s", "bucket", url)
    reader = MediaReader([source])
    assert reader.read("s", reader.find("s", A), MediumKind.IMAGE) == b"first"
    assert reader.describe("s", "a.jpg") == f"{url}/a.jpg"
    with (here / "media.zip").open("rb") as file:
        open_storage(url).put("archives/media.zip", file)
    with pytest.raises(ConfigError, match=rf"aws s3 cp {url}/archives/media\.zip"):
        locate_media([configure(media_root=f"{url}/archives/media.zip")], here)
