"""Media on S3: found by listing, read by key, and nothing outside the prefix."""

import io

import pytest

from infra import files
from infra.files import open_files
from infra.s3_files import S3Files
from infra.storage import open_storage
from pipelines.ingest.media import bucket as media_bucket
from pipelines.ingest.media import root as media_root
from pipelines.ingest.media.bucket import MediaBucket
from schemas.errors import RejectCode, SampleError
from schemas.record import MediumKind, MediumReference

OBJECTS = {
    "root/a.jpg": b"first",
    "root/sub/b.PNG": b"second",
    "root/sub/two.jpg": b"1",
    "root/sub/two.gif": b"2",
    "root/sub/v_x.mp4": b"video",
    "root/sub/deep/c.jpg": b"deep",
    "root/empty.jpg": b"",
    "outside.jpg": b"secret",
}


@pytest.fixture
def url(s3_url):
    storage = open_storage(s3_url)
    for path, data in OBJECTS.items():
        storage.put(path, io.BytesIO(data))
    return f"{s3_url}/root"


@pytest.fixture
def requests(monkeypatch):
    """What is asked of the server."""
    asked = []
    for name in ("list_folder", "state", "open"):
        real = getattr(S3Files, name)
        monkeypatch.setattr(
            S3Files, name, lambda self, path, real=real, name=name: asked.append(name) or real(self, path)
        )
    return asked


def image(path):
    return MediumReference(MediumKind.IMAGE, path)


def code_of(action):
    with pytest.raises(SampleError) as caught:
        action()
    return caught.value.code


def test_objects_are_found_by_path_and_by_stem_and_read(url, requests):
    root = MediaBucket(url)
    assert root.url == url
    for reference, location in [
        (image("a.jpg"), "a.jpg"),
        (image("./sub//deep/c.jpg"), "sub/deep/c.jpg"),
        (image("sub/b.jpg"), "sub/b.PNG"),
        (image("empty.jpg"), "empty.jpg"),
        (MediumReference(MediumKind.VIDEO, "sub/v_x", by_stem=True), "sub/v_x.mp4"),
        (MediumReference(MediumKind.VIDEO, "sub/v_x.pkl"), "sub/v_x.mp4"),
    ]:
        assert root.find(reference) == location
        data = OBJECTS[f"root/{location}"]
        assert root.state(location) == open_files(url).state(location)
        assert root.read(location, reference.kind) == data
    assert requests.count("list_folder") == 3


def test_an_unchanged_object_costs_no_request_of_its_own(url, requests):
    root = MediaBucket(url)
    for path in ("sub/b.PNG", "sub/two.jpg", "sub/two.gif", "sub/b.gif"):
        assert root.state(root.find(image(path))).etag
    assert requests == ["list_folder"]


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("../outside.jpg", RejectCode.UNSAFE_PATH),
        ("/outside.jpg", RejectCode.UNSAFE_PATH),
        ("outside.jpg", RejectCode.MISSING_FILE),
        ("sub", RejectCode.MISSING_FILE),
        ("sub/deep", RejectCode.MISSING_FILE),
        ("nowhere/a.jpg", RejectCode.MISSING_FILE),
        ("sub/two.png", RejectCode.AMBIGUOUS_FILE),
    ],
)
def test_what_is_not_there_has_a_code(url, path, code):
    root = MediaBucket(url)
    assert code_of(lambda: root.find(image(path))) is code
    if code is RejectCode.MISSING_FILE:
        assert code_of(lambda: root.state(path)) is code
        assert code_of(lambda: root.read(path, MediumKind.IMAGE)) is code


def test_an_object_that_went_away_changed_or_is_too_large_is_named(url, monkeypatch):
    root = MediaBucket(url)
    root.find(image("a.jpg"))
    storage = open_storage(url)
    storage.write_scratch("a.jpg", [b"another length"])
    assert code_of(lambda: root.read("a.jpg", MediumKind.IMAGE)) is RejectCode.UNREADABLE_FILE
    storage.remove("a.jpg")
    assert code_of(lambda: root.read("a.jpg", MediumKind.IMAGE)) is RejectCode.MISSING_FILE
    monkeypatch.setattr(media_root, "MAX_MEDIUM_BYTES", 0)
    assert code_of(lambda: root.read("sub/v_x.mp4", MediumKind.VIDEO)) is RejectCode.VIDEO_TOO_LARGE


def test_listings_are_kept_while_there_is_room(url, requests, monkeypatch):
    monkeypatch.setattr(media_bucket, "MAX_LISTED", 5)
    root = MediaBucket(url)
    for _ in range(2):
        root.find(image("sub/b.jpg"))
        root.find(image("sub/deep/c.jpg"))
        root.find(image("a.jpg"))
    assert requests.count("list_folder") > 3
    assert root.find(image("sub/b.jpg")) == "sub/b.PNG"


def test_local_files_answer_in_the_same_words(tmp_path):
    for path, data in OBJECTS.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    assert isinstance(open_files(tmp_path), files.LocalFiles)
    root = MediaBucket(str(tmp_path / "root"))
    assert root.read(root.find(image("sub/b.jpg")), MediumKind.IMAGE) == b"second"
