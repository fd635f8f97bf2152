"""Local storage: whole or absent, one winner, nothing outside the root."""

import io
import threading
from pathlib import Path

import pytest

from infra.storage import LocalStorage, open_storage
from schemas.errors import ConfigError, ConflictError, FatalError, NotFoundError


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "corpus")


def test_an_object_reads_back_whole_and_in_parts(storage: LocalStorage) -> None:
    storage.put("shards/a.tar", io.BytesIO(b"0123456789"))
    assert storage.read_bytes("shards/a.tar") == b"0123456789"
    assert storage.read_range("shards/a.tar", 3, 4) == b"3456"
    assert storage.exists("shards/a.tar")
    assert not storage.exists("shards")


def test_a_range_past_the_end_is_an_error_and_not_short(storage: LocalStorage) -> None:
    storage.put("a", io.BytesIO(b"0123"))
    with pytest.raises(NotFoundError, match="ends before byte 6"):
        storage.read_range("a", 2, 4)


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../x", "a/../../x"])
def test_paths_that_leave_the_root_are_refused(storage: LocalStorage, path: str) -> None:
    with pytest.raises(FatalError, match="no path below"):
        storage.read_bytes(path)


def test_what_is_absent_is_named(storage: LocalStorage) -> None:
    with pytest.raises(NotFoundError, match=r"nowhere\.json is not there"):
        storage.read_bytes("nowhere.json")


def test_of_many_creators_one_wins(storage: LocalStorage) -> None:
    won: list[int] = []
    barrier = threading.Barrier(8)

    def create(number: int) -> None:
        barrier.wait()
        if storage.create("commits/unit.json", str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert storage.read_bytes("commits/unit.json") == str(won[0]).encode()


def test_replace_wants_what_the_writer_saw(storage: LocalStorage) -> None:
    storage.replace("corpus.json", b"1", expected=None)
    storage.replace("corpus.json", b"2", expected=b"1")
    with pytest.raises(ConflictError, match="somebody else"):
        storage.replace("corpus.json", b"3", expected=b"1")
    with pytest.raises(ConflictError):
        storage.replace("corpus.json", b"3", expected=None)
    assert storage.read_bytes("corpus.json") == b"2"


def test_listing_is_sorted_and_hides_what_is_being_written(storage: LocalStorage) -> None:
    for name in ("b/2", "a", "b/1"):
        storage.put(name, io.BytesIO(b"x"))
    storage.local_path("b/.writing-abc").write_bytes(b"half")
    assert storage.list("b") == ["b/1", "b/2"]
    assert storage.list("nothing") == []


def test_a_failed_write_leaves_nothing(storage: LocalStorage) -> None:
    class Breaks(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        storage.put("shards/a.tar", Breaks(b"0123"))
    assert [path for path in Path(storage.url).rglob("*") if path.is_file()] == []


def test_unknown_schemes_are_refused() -> None:
    with pytest.raises(ConfigError, match="no storage for gs://"):
        open_storage("gs://bucket/corpus")
