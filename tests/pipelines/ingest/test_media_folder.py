"""Paths that strangers wrote: what they find below the media root, and that they find nothing else."""

import errno
import os
import re
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.files import FileState
from pipelines.ingest.asked import AskedMedia
from pipelines.ingest.media import folder as media_folder
from pipelines.ingest.media import root as media_root
from pipelines.ingest.media.folder import MediaFolder
from pipelines.ingest.media.root import fetch_one, normalize_path
from schemas.errors import RejectCode, SampleError
from schemas.record import MediumKind, MediumReference


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "a.jpg").write_bytes(b"a")
    (root / "sub/b.PNG").write_bytes(b"b")
    (root / "sub/b.txt").write_bytes(b"text")
    (root / "sub/two.jpg").write_bytes(b"1")
    (root / "sub/two.gif").write_bytes(b"2")
    (root / "sub/v_x.mp4").write_bytes(b"v")
    (root / "v_y.webm").write_bytes(b"v")
    (root / "v_y").mkdir()
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (tmp_path / "root2").mkdir()
    (tmp_path / "root2/c.jpg").write_bytes(b"secret")
    return root


def image(path):
    return MediumReference(MediumKind.IMAGE, path)


def video(path, by_stem=True):
    return MediumReference(MediumKind.VIDEO, path, by_stem=by_stem)


def code_of(action):
    with pytest.raises(SampleError) as caught:
        action()
    return caught.value.code


@pytest.mark.parametrize(
    ("reference", "location"),
    [
        (image("a.jpg"), "a.jpg"),
        (image("./sub//../a.jpg".replace("..", ".")), "sub/a.jpg"),
        (image("sub/b.jpg"), "sub/b.PNG"),
        (image("sub/two.gif"), "sub/two.gif"),
        (video("sub/v_x"), "sub/v_x.mp4"),
        (video("v_y"), "v_y.webm"),
        (video("sub/v_x.pkl", by_stem=False), "sub/v_x.mp4"),
    ],
)
def test_paths_find_files_exactly_or_by_stem(folder, reference, location):
    if location == "sub/a.jpg":
        (folder / "sub/a.jpg").write_bytes(b"a")
    assert MediaFolder(folder).find(reference) == location
    assert MediaFolder(folder).read(location, reference.kind) == (folder / location).read_bytes()


@pytest.mark.parametrize(
    "path",
    [
        "../secret.jpg",
        "sub/../../secret.jpg",
        "sub/../a.jpg",
        "/etc/passwd",
        "//etc/passwd",
        "",
        ".",
        "./",
        "..",
        "a.jpg\0.png",
        "a.jpg\n",
        "a\x1b[2J.jpg",
        "a\x7f.jpg",
        "a\x85.jpg",
        "..\\secret.jpg",
        "sub\\..\\..\\secret.jpg",
        "C:/windows/a.jpg",
        "./C:/windows/a.jpg",
    ],
)
@pytest.mark.parametrize("by_stem", [False, True])
def test_paths_that_could_mean_something_else_are_unsafe(folder, path, by_stem):
    reference = MediumReference(MediumKind.IMAGE, path, by_stem=by_stem)
    assert code_of(lambda: MediaFolder(folder).find(reference)) is RejectCode.UNSAFE_PATH


@pytest.mark.parametrize(
    ("reference", "code"),
    [
        (image("gone.jpg"), RejectCode.MISSING_FILE),
        (image("gone/gone.jpg"), RejectCode.MISSING_FILE),
        (image("a.jpg/x.jpg"), RejectCode.MISSING_FILE),
        (image("~/a.jpg"), RejectCode.MISSING_FILE),
        (image("file:///etc/passwd"), RejectCode.MISSING_FILE),
        (video("b"), RejectCode.MISSING_FILE),
        (video("sub/b"), RejectCode.MISSING_FILE),
        (video("sub/two.pkl", by_stem=False), RejectCode.MISSING_FILE),
        (image("sub/two.png"), RejectCode.AMBIGUOUS_FILE),
        (image("sub"), RejectCode.UNREADABLE_FILE),
        (image("x" * 5000), RejectCode.UNREADABLE_FILE),
    ],
)
def test_what_is_not_there_has_a_code(folder, reference, code):
    assert code_of(lambda: MediaFolder(folder).find(reference)) is code


def test_links_are_followed_inside_the_root_only(folder):
    (folder / "inside.jpg").symlink_to("sub/../a.jpg")
    (folder / "outside.jpg").symlink_to("../secret.jpg")
    (folder / "absolute.jpg").symlink_to(folder.parent / "secret.jpg")
    (folder / "neighbour").symlink_to("../root2")
    (folder / "dangling.jpg").symlink_to("nowhere.jpg")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    root = MediaFolder(folder)
    assert root.read(root.find(image("inside.jpg")), MediumKind.IMAGE) == b"a"
    for path in ("outside.jpg", "absolute.jpg", "neighbour/c.jpg", "neighbour/c.png"):
        assert code_of(lambda path=path: root.find(image(path))) is RejectCode.UNSAFE_PATH
        assert code_of(lambda path=path: root.read(path, MediumKind.IMAGE)) is RejectCode.UNSAFE_PATH
    assert code_of(lambda: root.find(image("dangling.jpg"))) is RejectCode.MISSING_FILE
    assert code_of(lambda: root.find(image("loop.jpg"))) is RejectCode.UNREADABLE_FILE
    # by stem, the only candidate is a link to the outside
    assert code_of(lambda: root.find(image("outside.png"))) is RejectCode.UNSAFE_PATH


def test_the_root_itself_may_be_a_link(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    assert MediaFolder(tmp_path / "link").find(image("a.jpg")) == "a.jpg"


def test_pipes_devices_and_folders_are_never_opened(folder):
    os.mkfifo(folder / "pipe.jpg")
    (folder / "null.jpg").symlink_to("/dev/null")
    root = MediaFolder(folder)
    assert code_of(lambda: root.find(image("pipe.jpg"))) is RejectCode.UNREADABLE_FILE
    assert code_of(lambda: root.read("pipe.jpg", MediumKind.IMAGE)) is RejectCode.UNREADABLE_FILE
    assert code_of(lambda: root.find(image("pipe.png"))) is RejectCode.MISSING_FILE
    assert code_of(lambda: root.find(image("null.jpg"))) is RejectCode.UNSAFE_PATH
    assert code_of(lambda: root.read("sub", MediumKind.IMAGE)) is RejectCode.UNREADABLE_FILE


def test_a_file_that_went_away_or_grew_too_large_is_named(folder, monkeypatch):
    root = MediaFolder(folder)
    location = root.find(image("a.jpg"))
    monkeypatch.setattr(media_root, "MAX_MEDIUM_BYTES", 0)
    assert code_of(lambda: root.read(location, MediumKind.IMAGE)) is RejectCode.IMAGE_TOO_LARGE
    assert code_of(lambda: root.read(location, MediumKind.VIDEO)) is RejectCode.VIDEO_TOO_LARGE
    (folder / "a.jpg").unlink()
    assert code_of(lambda: root.read(location, MediumKind.IMAGE)) is RejectCode.MISSING_FILE


def test_links_are_followed_into_folders_that_are_allowed_besides(folder, tmp_path):
    (tmp_path / "also").mkdir()
    (tmp_path / "also/d.jpg").write_bytes(b"d")
    (tmp_path / "alias").symlink_to(tmp_path / "also")
    (folder / "d.jpg").symlink_to(tmp_path / "also/d.jpg")
    (folder / "linked").symlink_to("../also")
    (folder / "neighbour").symlink_to("../root2")
    (tmp_path / "also/back.jpg").symlink_to("../root2/c.jpg")
    for allowed in (tmp_path / "also", tmp_path / "alias"):
        root = MediaFolder(folder, [str(allowed)])
        for path in ("d.jpg", "linked/d.jpg"):
            assert root.read(root.find(image(path)), MediumKind.IMAGE) == b"d"
        assert root.find(image("linked/d.png")) == "linked/d.jpg"
        for path in ("neighbour/c.jpg", "linked/back.jpg"):
            assert code_of(lambda path=path, root=root: root.find(image(path))) is RejectCode.UNSAFE_PATH
    # whoever allows /a/b does not allow /a/bc
    (tmp_path / "roo").mkdir()
    assert (
        code_of(lambda: MediaFolder(folder, [str(tmp_path / "roo")]).find(image("neighbour/c.jpg")))
        is RejectCode.UNSAFE_PATH
    )


def test_a_link_that_appears_in_a_folder_that_is_known_is_checked(folder):
    root = MediaFolder(folder)
    assert root.find(image("a.jpg")) == "a.jpg"
    (folder / "a.jpg").unlink()
    (folder / "a.jpg").symlink_to("../secret.jpg")
    for action in (root.find, lambda reference: root.read(reference.path, MediumKind.IMAGE)):
        assert code_of(lambda action=action: action(image("a.jpg"))) is RejectCode.UNSAFE_PATH
    assert code_of(lambda: root.state("a.jpg")) is RejectCode.UNSAFE_PATH


def test_the_state_is_that_of_the_file_behind_all_links(folder):
    (folder / "inside.jpg").symlink_to("a.jpg")
    root = MediaFolder(folder)
    status = (folder / "a.jpg").stat()
    expected = FileState(status.st_size, status.st_mtime_ns)
    assert root.state("a.jpg") == root.state("inside.jpg") == expected
    (folder / "a.jpg").write_bytes(b"longer")
    assert root.state("inside.jpg").num_bytes == 6
    assert code_of(lambda: root.state("gone.jpg")) is RejectCode.MISSING_FILE


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_what_may_not_be_read_is_unreadable(folder):
    root = MediaFolder(folder)
    (folder / "a.jpg").chmod(0)
    assert code_of(lambda: root.read("a.jpg", MediumKind.IMAGE)) is RejectCode.UNREADABLE_FILE
    (folder / "sub").chmod(0)
    assert code_of(lambda: root.find(image("sub/b.jpg"))) is RejectCode.UNREADABLE_FILE
    (folder / "sub").chmod(0o700)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ENXIO])
def test_whatever_the_system_refuses_is_unreadable(folder, monkeypatch, code):
    root = MediaFolder(folder)

    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "open", refuse)
    assert code_of(lambda: root.read("a.jpg", MediumKind.IMAGE)) is RejectCode.UNREADABLE_FILE
    monkeypatch.setattr(os, "lstat", refuse)
    assert code_of(lambda: root.find(image("a.jpg"))) is RejectCode.UNREADABLE_FILE


def test_reads_that_come_in_pieces_are_put_together(folder, monkeypatch):
    real = os.read
    monkeypatch.setattr(os, "read", lambda descriptor, length: real(descriptor, min(length, 3)))
    (folder / "a.jpg").write_bytes(b"0123456789")
    assert MediaFolder(folder).read("a.jpg", MediumKind.IMAGE) == b"0123456789"
    # a file that grows is not what its state says
    monkeypatch.setattr(os, "read", lambda descriptor, length: b"x" * length)
    assert code_of(lambda: MediaFolder(folder).read("a.jpg", MediumKind.IMAGE)) is RejectCode.UNREADABLE_FILE
    monkeypatch.setattr(os, "read", lambda descriptor, length: b"")
    assert code_of(lambda: MediaFolder(folder).read("a.jpg", MediumKind.IMAGE)) is RejectCode.UNREADABLE_FILE


def test_a_folder_is_listed_once_while_there_is_room(folder, monkeypatch):
    listed = []
    real = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: listed.append(path) or real(path))
    root = MediaFolder(folder)
    for _ in range(3):
        assert root.find(image("sub/b.jpg")) == "sub/b.PNG"
    assert len(listed) == 1
    monkeypatch.setattr(media_folder, "MAX_LISTED", 1)
    for _ in range(2):
        assert root.find(video("v_y")) == "v_y.webm"
        assert root.find(image("sub/b.jpg")) == "sub/b.PNG"
    assert len(listed) == 5


def test_a_folder_is_followed_once(folder, monkeypatch):
    followed = []
    real = os.path.realpath
    root = MediaFolder(folder)
    monkeypatch.setattr(os.path, "realpath", lambda path: followed.append(path) or real(path))
    for name in ("b.PNG", "two.gif", "two.jpg"):
        root.state(root.find(image(f"sub/{name}")))
        root.read(f"sub/{name}", MediumKind.IMAGE)
        list(root.fetch(AskedMedia(MediumKind.IMAGE, False, [f"sub/{name}"]), {}))
    assert len(followed) == 1


class Known:
    """A file that is known in one state."""

    def __init__(self, state):
        self.state = state

    def holds_for(self, state):
        return state == self.state


HOSTILE = (
    "a.jpg", "sub/b.PNG", "sub/b.jpg", "./a.jpg", "sub//b.PNG", "sub/./b.PNG", "/a.jpg", "//a.jpg",
    "sub/../a.jpg", "../secret.jpg", "", ".", "sub", "sub/", "gone.jpg", "sub/gone.jpg", "gone/gone.jpg",
    "a.jpg/x.jpg", "a.jpg\n", "sub\\b.PNG", "inside.jpg", "outside.jpg", "absolute.jpg", "dangling.jpg",
    "loop.jpg", "null.jpg", "pipe.jpg", "linked/b.PNG", "linked/b.jpg", "neighbour/c.jpg", "also/d.jpg",
    "also/back.jpg", "sub/two.png", "v_y", "v_x", "sub/v_x.pkl", "long.jpg", "empty.jpg", "x" * 300,
    "sub/" + "x" * 300, "\ud800.jpg",
)  # fmt: skip


@pytest.fixture
def hostile(folder, tmp_path):
    """Everything that a folder can hold."""
    (tmp_path / "also").mkdir()
    (tmp_path / "also/d.jpg").write_bytes(b"d")
    (tmp_path / "also/back.jpg").symlink_to("../root2/c.jpg")
    links = {
        "inside.jpg": "sub/../a.jpg",
        "outside.jpg": "../secret.jpg",
        "absolute.jpg": tmp_path / "secret.jpg",
        "dangling.jpg": "nowhere.jpg",
        "loop.jpg": "loop.jpg",
        "null.jpg": "/dev/null",
        "linked": "sub",
        "neighbour": "../root2",
        "also": tmp_path / "also",
    }
    for name, target in links.items():
        (folder / name).symlink_to(target)
    os.mkfifo(folder / "pipe.jpg")
    (folder / "long.jpg").write_bytes(b"0123456789")
    (folder / "empty.jpg").write_bytes(b"")
    return MediaFolder(folder, [str(tmp_path / "also")])


def tell(fetched):
    """What can be compared."""
    if isinstance(fetched, SampleError):
        return fetched.code, fetched.message
    data = fetched.data
    data = (data.code, data.message) if isinstance(data, SampleError) else data
    return fetched.location, fetched.state, data


@pytest.mark.parametrize("kind", MediumKind)
@pytest.mark.parametrize("by_stem", [False, True])
def test_what_is_fetched_is_what_the_steps_say(hostile, monkeypatch, kind, by_stem):
    monkeypatch.setattr(media_folder, "SHORT_BYTES", 6)
    asked = AskedMedia(kind, by_stem, [*HOSTILE, *HOSTILE[::-1]])
    expected = [tell(fetch_one(hostile, reference, {})) for reference in asked.references()]
    fetched = list(map(tell, hostile.fetch(asked, {})))
    assert fetched == expected
    assert fetched == list(map(tell, MediaFolder(hostile.url, [f"{hostile.url}/../also"]).fetch(asked, {})))
    found = {one[0]: one[1] for one in fetched if len(one) == 3}
    assert len(found) > (3 if by_stem else 6)
    known = {location: Known(state) for location, state in found.items()}
    expected = [(*one[:2], None) if len(one) == 3 else one for one in fetched]
    assert list(map(tell, hostile.fetch(asked, known))) == expected
    changed = {location: Known(None) for location in found}
    assert list(map(tell, hostile.fetch(asked, changed))) == fetched


def test_a_short_file_in_a_folder_that_is_known_is_opened_once(folder, monkeypatch):
    root = MediaFolder(folder)
    names = ["sub/b.PNG", "sub/two.gif", "sub/two.jpg"]
    asked = AskedMedia(MediumKind.IMAGE, False, names)
    list(root.fetch(asked, {}))
    calls = []
    for name in ("open", "fstat", "read", "close", "lstat", "stat"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *given, real=real, name=name: calls.append(name) or real(*given))
    assert [one.data for one in root.fetch(asked, {})] == [b"b", b"2", b"1"]
    assert calls == ["open", "fstat", "read", "close"] * 3


def test_a_link_that_took_the_place_of_a_file_is_not_fetched(folder):
    root = MediaFolder(folder)
    asked = AskedMedia(MediumKind.IMAGE, False, ["a.jpg"])
    assert [one.data for one in root.fetch(asked, {})] == [b"a"]
    (folder / "a.jpg").unlink()
    (folder / "a.jpg").symlink_to("../secret.jpg")
    assert [one.code for one in root.fetch(asked, {})] == [RejectCode.UNSAFE_PATH]


def test_a_file_that_grows_or_fails_while_it_is_fetched_is_unreadable(folder, monkeypatch):
    root = MediaFolder(folder)
    asked = AskedMedia(MediumKind.IMAGE, False, ["a.jpg"])
    real, open_before = os.read, set(os.listdir("/proc/self/fd"))
    list(root.fetch(asked, {}))
    monkeypatch.setattr(os, "read", lambda descriptor, length: real(descriptor, length) + b"x")
    assert [tell(one)[2][0] for one in root.fetch(asked, {})] == [RejectCode.UNREADABLE_FILE]

    def fail(descriptor, length):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "read", fail)
    assert [tell(one)[2][0] for one in root.fetch(asked, {})] == [RejectCode.UNREADABLE_FILE]
    assert set(os.listdir("/proc/self/fd")) == open_before


PARTS = st.lists(st.sampled_from(["..", ".", "", "/", "a", "\\", "~", "\0", "C:", "b.jpg", " "]), max_size=6)


@given(path=PARTS.map("/".join) | PARTS.map("".join) | st.text(max_size=10))
def test_whatever_passes_stays_below_the_root(path):
    try:
        location = normalize_path(path)
    except SampleError:
        return
    root = Path("/some/root")
    assert Path(os.path.normpath(root / location)).is_relative_to(root)
    assert os.path.normpath(root / location) != str(root)
    assert normalize_path(location) == location


SEGMENTS = st.sampled_from(["a", "..", ".", "...", "C:", "b.jpg", "a b", "\\", "\x85", "é", "\ud800", ""])


@given(path=st.lists(SEGMENTS, min_size=1, max_size=5).map("/".join) | st.text(max_size=8))
def test_the_short_way_takes_what_the_long_way_leaves_as_it_is(path):
    pure = PurePosixPath(path)
    is_unsafe = re.search(r"[\x00-\x1f\x7f-\x9f\\\ud800-\udfff]|^[A-Za-z]:/", pure.as_posix())
    is_below = not is_unsafe and not pure.is_absolute() and ".." not in pure.parts and bool(pure.parts)
    try:
        assert normalize_path(path) == pure.as_posix()
    except SampleError:
        assert not is_below
    else:
        assert is_below
