"""Input files here and on S3 answer alike."""

import io
import os
import pickle

import pytest

from infra import s3_files
from infra.files import Files, FileState, open_files
from infra.s3_client import connect
from schemas.errors import ConfigError, NotFoundError

CONTENTS = {
    "a.json": b"0123456789",
    "b[1].json": b"bracket",
    "b1.json": b"no bracket",
    ".hidden.json": b"h",
    "sub/c.json": b"c",
    "sub/deep/d.json": b"dd",
    "sub/.git/e.json": b"e",
    "other/f.parquet": b"",
}


@pytest.fixture(params=["local", "s3"])
def files(request, tmp_path) -> Files:
    if request.param == "local":
        for path, data in CONTENTS.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes(data)
        return open_files(tmp_path)
    url = request.getfixturevalue("s3_url")
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    client = connect()
    for path, data in [*CONTENTS.items(), ("sub/", b"")]:
        client.call_s3("put_object", Bucket=bucket, Key=f"{prefix}/{path}", Body=data)
    return open_files(url)


PATTERNS = {
    "a.json": ["a.json"],
    "*.json": ["a.json", "b1.json", "b[1].json"],
    "b[1].json": ["b[1].json"],
    "b[0-9].json": ["b1.json"],
    "?.json": ["a.json"],
    "*/*.json": ["sub/c.json"],
    "sub/**": ["sub/c.json", "sub/deep/d.json"],
    "**/*.json": ["a.json", "b1.json", "b[1].json", "sub/c.json", "sub/deep/d.json"],
    "sub/**/d.json": ["sub/deep/d.json"],
    "sub/**/deep/d.json": ["sub/deep/d.json"],
    ".*.json": [".hidden.json"],
    "sub": [],
    "gone.json": [],
    "gone/*": [],
}


def test_patterns_name_plain_files(files: Files) -> None:
    assert {pattern: files.glob(pattern) for pattern in PATTERNS} == PATTERNS


def test_a_file_is_read_from_any_place(files: Files) -> None:
    with files.open("a.json") as file:
        assert file.seek(0, os.SEEK_END) == 10
        assert file.read(3) == b""
        assert (file.seek(4), file.read(3), file.tell()) == (4, b"456", 7)
        assert file.read() == b"789"
        assert file.seek(-2, os.SEEK_END) == 8
        assert file.seek(-3, os.SEEK_CUR) == 5
        buffer = bytearray(8)
        assert (file.readinto(buffer), bytes(buffer)) == (5, b"56789\0\0\0")
        assert file.seek(100) == 100
        assert file.read(1) == b""
    with files.open("other/f.parquet") as file:
        assert file.read() == b""
    with files.open("a.json") as file:
        assert io.BufferedReader(file, 4).read() == b"0123456789"


def test_each_read_is_one_request(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket, _, prefix = s3_url.removeprefix("s3://").partition("/")
    connect().call_s3("put_object", Bucket=bucket, Key=f"{prefix}/a", Body=bytes(range(100)))
    files = open_files(s3_url)
    file = files.open("a")
    asked = []
    client = files._client()
    real = client.cat_file

    def watch(path: str, start: int, end: int, **how: int) -> bytes:
        asked.append((start, end))
        return real(path, start=start, end=end, **how)

    monkeypatch.setattr(client, "cat_file", watch)
    file.seek(10)
    assert file.read(20) == bytes(range(10, 30))
    assert file.read(5) == bytes(range(30, 35))
    assert asked == [(10, 30), (30, 35)]


def test_a_folder_is_listed_without_what_is_below(files: Files) -> None:
    listed = files.list_folder("sub")
    assert {name: state.num_bytes for name, state in listed.items()} == {"c.json": 1}
    assert listed["c.json"] == files.state("sub/c.json")
    assert sorted(files.list_folder("")) == sorted(path for path in CONTENTS if "/" not in path)
    assert files.list_folder("gone") == {}
    assert files.list_folder("a.json") == {}


def test_listings_have_many_pages(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket, _, prefix = s3_url.removeprefix("s3://").partition("/")
    client = connect()
    for number in range(7):
        client.call_s3("put_object", Bucket=bucket, Key=f"{prefix}/many/{number}", Body=b"")
    monkeypatch.setattr(s3_files, "KEYS_PER_PAGE", 3)
    files = open_files(s3_url)
    assert list(files.list_folder("many")) == [str(number) for number in range(7)]
    assert len(files.glob("many/*")) == 7


def test_another_state_means_other_bytes(files: Files) -> None:
    state = files.state("a.json")
    assert (state.num_bytes, state) == (10, files.state("a.json"))
    assert state.mtime_ns > 0
    assert bool(state.etag) == files.url.startswith("s3://")


def test_what_is_not_there_is_named(files: Files) -> None:
    for path in ("gone.json", "sub"):
        with pytest.raises(NotFoundError, match=path):
            files.state(path)
        with pytest.raises(NotFoundError, match=path):
            files.open(path)


def test_pipes_are_not_waited_for(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    files = open_files(tmp_path)
    with pytest.raises(NotFoundError, match="no plain file"):
        files.open("pipe")
    assert files.glob("*") == []


def test_what_may_not_be_read_is_a_matter_of_configuration(tmp_path, monkeypatch) -> None:
    def refuse(*_arguments: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ConfigError, match="a cannot be read: Permission denied"):
        open_files(tmp_path).open("a")


def test_files_travel_to_workers(files: Files) -> None:
    copy = pickle.loads(pickle.dumps(files))
    assert copy.url == files.url
    assert copy.state("a.json") == files.state("a.json")


def test_paths_lead_where_they_lead(tmp_path) -> None:
    (tmp_path / "a.json").write_bytes(b"x")
    (tmp_path / "link.json").symlink_to("a.json")
    (tmp_path / "sub").mkdir()
    files = open_files(tmp_path / "sub")
    assert files.state("../a.json") == files.state(str(tmp_path / "a.json")) == files.state("../link.json")
    assert isinstance(files.state("../a.json"), FileState)


def test_unknown_places_are_refused() -> None:
    with pytest.raises(ConfigError, match="ftp"):
        open_files("ftp://host/folder")
    with pytest.raises(ConfigError, match="bucket"):
        open_files("s3://")
