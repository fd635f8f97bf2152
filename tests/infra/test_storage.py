"""The contract of storage, for every storage: whole or absent, one winner, nothing outside the root."""

import io
import os
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infra.storage import MAX_OPEN, LocalStorage, Storage, open_storage
from schemas.errors import ConfigError, ConflictError, FatalError, NotFoundError

NUM_CREATORS = 8


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "s3":
        return open_storage(request.getfixturevalue("s3_url"))
    return open_storage(tmp_path / "corpus")


def test_an_object_reads_back_whole_and_in_parts(storage: Storage) -> None:
    storage.put("shards/a.tar", io.BytesIO(b"0123456789"))
    assert storage.read_bytes("shards/a.tar") == b"0123456789"
    assert storage.read_range("shards/a.tar", 3, 4) == b"3456"
    assert storage.read_range("shards/a.tar", 9, 1) == b"9"
    assert storage.read_range("shards/a.tar", 3, 0) == b""
    assert storage.exists("shards/a.tar")
    assert not storage.exists("shards")
    assert not storage.exists("shards/a")


def test_an_empty_object_is_there(storage: Storage) -> None:
    storage.put("empty", io.BytesIO(b""))
    assert storage.exists("empty")
    assert storage.read_bytes("empty") == b""


def test_an_open_file_is_stored_from_its_start(storage: Storage) -> None:
    file = io.BytesIO(b"0123456789")
    file.seek(7)
    storage.put("a", file)
    assert storage.read_bytes("a") == b"0123456789"


def test_an_object_of_that_size_stays(storage: Storage) -> None:
    storage.put("a-digest", io.BytesIO(b"0123"))
    storage.put("a-digest", io.BytesIO(b"abcd"))
    assert storage.read_bytes("a-digest") == b"0123"
    storage.put("a-digest", io.BytesIO(b"01234"))
    assert storage.read_bytes("a-digest") == b"01234"


@pytest.mark.parametrize(("offset", "length"), [(2, 4), (4, 1), (9, 2)])
def test_a_range_past_the_end_is_an_error_and_not_short(storage: Storage, offset: int, length: int) -> None:
    storage.put("a", io.BytesIO(b"0123"))
    with pytest.raises(NotFoundError, match="/a ends before"):
        storage.read_range("a", offset, length)


def test_a_range_is_read_into_a_buffer_and_nothing_beside_it(storage: Storage) -> None:
    storage.put("a/b", io.BytesIO(b"0123456789"))
    room = bytearray(b"........")
    storage.read_into("a/b", 3, memoryview(room)[2:6])
    assert room == b"..3456.."
    storage.read_into("a/b", 10, memoryview(room)[:0])
    with pytest.raises(NotFoundError, match="ends before byte 12"):
        storage.read_into("a/b", 8, memoryview(room)[:4])
    with pytest.raises(NotFoundError, match="is not there"):
        storage.read_into("a/c", 0, memoryview(room))


def test_a_reader_is_told_what_is_there_and_says_how_far_to_read(storage: Storage) -> None:
    data = bytes(range(256)) * 5000
    storage.put("a", io.BytesIO(data))
    room = bytearray(len(data) - 3)
    told: list[int] = []

    def see(num_bytes: int) -> int:
        told.append(num_bytes)
        assert room[:num_bytes] == data[3 : 3 + num_bytes]
        return min(num_bytes + 500_000, len(room))

    storage.read_into("a", 3, memoryview(room), see)
    assert room == data[3:]
    wanted = [0, 500_000, 1_000_000, len(room)]
    assert told == (wanted if isinstance(storage, LocalStorage) else wanted[-1:])


def test_many_threads_read_more_objects_than_stay_open(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    for number in range(3 * MAX_OPEN):
        storage.put(f"{number}", io.BytesIO(f"{number:08}".encode()))

    def read(number: int) -> bool:
        room = bytearray(8)
        storage.read_into(f"{number % (3 * MAX_OPEN)}", 0, memoryview(room))
        return room == f"{number % (3 * MAX_OPEN):08}".encode()

    before = len(os.listdir("/proc/self/fd"))
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(3000)))
    assert len(os.listdir("/proc/self/fd")) <= before + MAX_OPEN
    assert read(5)
    again = pickle.loads(pickle.dumps(storage))
    assert again.read_range("7", 0, 8) == b"00000007"


@pytest.mark.parametrize("path", ["", ".", "/etc/passwd", "../x", "a/../../x"])
def test_paths_that_leave_the_root_are_refused(storage: Storage, path: str) -> None:
    for use in (storage.read_bytes, storage.exists, storage.list):
        with pytest.raises(FatalError, match="no path below"):
            use(path)
    with pytest.raises(FatalError, match="no path below"):
        storage.create(path, b"x")


def test_what_is_absent_is_named(storage: Storage) -> None:
    with pytest.raises(NotFoundError, match=r"nowhere\.json is not there"):
        storage.read_bytes("nowhere.json")
    with pytest.raises(NotFoundError, match=r"nowhere\.json is not there"):
        storage.read_range("nowhere.json", 0, 1)


def test_of_many_creators_one_wins(storage: Storage) -> None:
    won: list[int] = []
    lost: list[int] = []
    barrier = threading.Barrier(NUM_CREATORS)

    def create(number: int) -> None:
        barrier.wait()
        (won if storage.create("commits/unit.json", str(number).encode()) else lost).append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(NUM_CREATORS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert sorted(won + lost) == list(range(NUM_CREATORS))
    assert storage.read_bytes("commits/unit.json") == str(won[0]).encode()


def test_a_second_creator_of_the_same_bytes_has_lost_too(storage: Storage) -> None:
    assert storage.create("lease", b"same")
    assert not storage.create("lease", b"same")


def test_replace_wants_what_the_writer_saw(storage: Storage) -> None:
    with pytest.raises(ConflictError, match="somebody else"):
        storage.replace("corpus.json", b"1", expected=b"0")
    storage.replace("corpus.json", b"1", expected=None)
    storage.replace("corpus.json", b"2", expected=b"1")
    with pytest.raises(ConflictError, match="somebody else"):
        storage.replace("corpus.json", b"3", expected=b"1")
    with pytest.raises(ConflictError):
        storage.replace("corpus.json", b"3", expected=None)
    assert storage.read_bytes("corpus.json") == b"2"


def test_of_many_replacers_one_wins(storage: Storage) -> None:
    storage.replace("corpus.json", b"before", expected=None)
    won: list[int] = []
    barrier = threading.Barrier(NUM_CREATORS)

    def swap(number: int) -> None:
        barrier.wait()
        try:
            storage.replace("corpus.json", str(number).encode(), expected=b"before")
        except ConflictError:
            return
        won.append(number)

    threads = [threading.Thread(target=swap, args=(number,)) for number in range(NUM_CREATORS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert storage.read_bytes("corpus.json") == str(won[0]).encode()


def test_listing_is_sorted_and_below_the_folder(storage: Storage) -> None:
    for name in ("b/2", "a", "b/1", "b/c/0", "bb/1", "b.json"):
        storage.put(name, io.BytesIO(b"x"))
    assert storage.list("b") == ["b/1", "b/2", "b/c/0"]
    assert storage.list("b/") == ["b/1", "b/2", "b/c/0"]
    assert storage.list("nothing") == []


def test_a_listing_tells_sizes_and_ages_by_the_storage(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, data in (("b/2", b""), ("b/1", b"0123"), ("bb/1", b"x")):
        storage.put(name, io.BytesIO(data))
    monkeypatch.setattr("time.time", lambda: 0.0)
    listed = storage.list_objects("b")
    assert [(one.path, one.num_bytes) for one in listed] == [("b/1", 4), ("b/2", 0)]
    assert all(0 <= one.age_s < 60 for one in listed)
    assert storage.list_objects("nothing") == []


def test_scratch_is_its_pieces_written_over_what_was_there(storage: Storage) -> None:
    storage.write_scratch("notes/a", [b"before, and longer"])
    storage.write_scratch("notes/a", [b"01", memoryview(b"23"), b""])
    assert storage.read_bytes("notes/a") == b"0123"
    storage.write_scratch("notes/none", [])
    assert storage.read_bytes("notes/none") == b""


def test_what_is_removed_is_gone_and_nothing_else(storage: Storage) -> None:
    for name in ("notes/a", "notes/ab", "notes/a.b/c"):
        storage.write_scratch(name, [b"x"])
    storage.remove("notes/a")
    storage.remove("notes/a")
    storage.remove("nothing/at-all")
    assert storage.list("notes") == ["notes/a.b/c", "notes/ab"]
    storage.remove("notes/ab")
    storage.remove("notes/a.b/c")
    assert storage.list("notes") == []
    with pytest.raises(FatalError, match="no path below"):
        storage.remove("../a")


def test_a_removed_name_can_be_created_again(storage: Storage) -> None:
    assert storage.create("commits/a.json", b"1")
    storage.remove("commits/a.json")
    assert storage.create("commits/a.json", b"2")
    assert storage.read_bytes("commits/a.json") == b"2"


def test_a_sweep_leaves_what_is_finished(storage: Storage) -> None:
    assert storage.sweep_unfinished(0.0) == []
    storage.put("shards/a.tar", io.BytesIO(b"0123"))
    assert storage.create("commits/a.json", b"1")
    assert storage.sweep_unfinished(0.0) == []
    assert storage.list("shards") == ["shards/a.tar"]
    assert storage.exists("commits/a.json")


def test_a_failed_write_leaves_nothing(storage: Storage) -> None:
    class Breaks(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        storage.put("shards/a.tar", Breaks(b"0123"))
    assert storage.list("shards") == []
    assert not storage.exists("shards/a.tar")


def test_storage_travels_to_workers(storage: Storage) -> None:
    storage.put("a", io.BytesIO(b"0123"))
    assert pickle.loads(pickle.dumps(storage)).read_bytes("a") == b"0123"


def test_a_url_opens_the_same_place(storage: Storage) -> None:
    storage.put("a", io.BytesIO(b"0123"))
    again = open_storage(storage.url)
    assert again.url == storage.url
    assert again.read_bytes("a") == b"0123"


def test_local_listing_hides_what_is_being_written(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    storage.put("b/1", io.BytesIO(b"x"))
    storage.local_path("b/.writing-abc").write_bytes(b"half")
    assert storage.list("b") == ["b/1"]


def test_a_failed_local_write_leaves_no_file_at_all(tmp_path: Path) -> None:
    class Breaks(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        LocalStorage(tmp_path).put("shards/a.tar", Breaks(b"0123"))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_local_writes_that_were_cut_short_are_swept_by_age(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    storage.put("b/1", io.BytesIO(b"x"))
    for name, age_s in (("old", 90_000), ("new", 80_000)):
        left = storage.local_path(f"b/.writing-{name}")
        left.write_bytes(b"half")
        moment = time.time() - age_s
        os.utime(left, (moment, moment))
    assert storage.sweep_unfinished(86_400) == ["b/.writing-old"]
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == [".writing-new", "1"]


def test_ages_of_local_objects_are_those_of_their_files(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    for name, age_s in (("b/1", 1000.0), ("b/2", 0.0)):
        storage.put(name, io.BytesIO(b"x"))
        moment = time.time() - age_s
        os.utime(storage.local_path(name), (moment, moment))
    old, new = storage.list_objects("b")
    assert 990 < old.age_s < 1100
    assert new.age_s < 100


def test_unknown_schemes_are_refused() -> None:
    with pytest.raises(ConfigError, match="no storage for gs://"):
        open_storage("gs://bucket/corpus")
