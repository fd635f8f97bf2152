"""Media read out of archives in place: what is found, and what a hostile archive cannot do."""

import io
import os
import sqlite3
import struct
import subprocess
import sys
import tarfile
import tempfile
import warnings
import zipfile
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.ingest.media import archive_index, zip_archive
from pipelines.ingest.media import root as media_root
from pipelines.ingest.media.archive import MediaArchive
from pipelines.ingest.media.tar_archive import list_tar
from pipelines.ingest.media.zip_archive import list_zip
from schemas.errors import ConfigError, CorruptError, RejectCode, SampleError
from schemas.record import MediumKind, MediumReference

MEMBERS = {
    "a.jpg": b"first",
    "sub/b.PNG": b"second" * 100,
    "sub/b.txt": b"text",
    "sub/two.jpg": b"1",
    "sub/two.gif": b"2",
    "sub/v_x.mp4": bytes(3000),
    "sub/deep/v_y.webm": b"video",
    "naïve/日本.jpg": b"named",
    "empty.jpg": b"",
}


@pytest.fixture(autouse=True)
def _own_temporary_folder(tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))


def write_zip(path, members=MEMBERS, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def write_tar(path, members=MEMBERS, form=tarfile.PAX_FORMAT, prefix=""):
    with tarfile.open(path, "w", format=form) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(prefix + name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


WRITERS = {
    "stored": lambda path: write_zip(path, method=zipfile.ZIP_STORED),
    "deflated": write_zip,
    "pax": write_tar,
    "gnu": lambda path: write_tar(path, form=tarfile.GNU_FORMAT),
    "dotted": lambda path: write_tar(path, prefix="./"),
}


@pytest.fixture(params=WRITERS)
def archive(request, tmp_path):
    """An archive of either kind, under a name that does not tell which."""
    return WRITERS[request.param](tmp_path / "media.bin")


def image(path):
    return MediumReference(MediumKind.IMAGE, path)


def code_of(action):
    with pytest.raises(SampleError) as caught:
        action()
    return caught.value.code


def test_every_member_is_found_and_read(archive):
    root = MediaArchive(archive)
    for name, data in MEMBERS.items():
        assert root.find(image(name)) == name
        assert root.read(name, MediumKind.IMAGE) == data
        assert root.state(name).num_bytes == len(data)
        assert root.state(name).mtime_ns == archive.stat().st_mtime_ns
    assert len({root.state(name) for name in MEMBERS}) == len(MEMBERS)


@pytest.mark.parametrize(
    ("reference", "location"),
    [
        (image("./sub//b.PNG"), "sub/b.PNG"),
        (image("sub/b.jpg"), "sub/b.PNG"),
        (image("sub/two.gif"), "sub/two.gif"),
        (MediumReference(MediumKind.VIDEO, "sub/v_x", by_stem=True), "sub/v_x.mp4"),
        (MediumReference(MediumKind.VIDEO, "sub/v_x.pkl"), "sub/v_x.mp4"),
    ],
)
def test_stems_stand_for_members_as_they_do_for_files(archive, reference, location):
    assert MediaArchive(archive).find(reference) == location


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("../a.jpg", RejectCode.UNSAFE_PATH),
        ("/a.jpg", RejectCode.UNSAFE_PATH),
        ("gone.jpg", RejectCode.MISSING_FILE),
        ("sub", RejectCode.MISSING_FILE),
        ("a.jpg/b", RejectCode.MISSING_FILE),
        ("sub/two.png", RejectCode.AMBIGUOUS_FILE),
        ("%", RejectCode.MISSING_FILE),
        ("sub/v_x.jpg", RejectCode.MISSING_FILE),
    ],
)
def test_what_is_not_there_has_a_code(archive, path, code):
    root = MediaArchive(archive)
    assert code_of(lambda: root.find(image(path))) is code
    if code is RejectCode.MISSING_FILE:
        assert code_of(lambda: root.state(path)) is code
        assert code_of(lambda: root.read(path, MediumKind.IMAGE)) is code


def test_members_over_the_limit_are_not_read(archive, monkeypatch):
    monkeypatch.setattr(media_root, "MAX_MEDIUM_BYTES", 1000)
    root = MediaArchive(archive)
    assert code_of(lambda: root.read("sub/v_x.mp4", MediumKind.VIDEO)) is RejectCode.VIDEO_TOO_LARGE
    assert code_of(lambda: root.read("sub/v_x.mp4", MediumKind.IMAGE)) is RejectCode.IMAGE_TOO_LARGE


def test_an_archive_is_listed_once_per_machine_and_again_when_it_changed(archive, monkeypatch):
    listed = []
    for name, real in (("list_zip", list_zip), ("list_tar", list_tar)):
        module = "zip_archive.list_zip" if name == "list_zip" else "list_tar"
        monkeypatch.setattr(
            f"pipelines.ingest.media.archive.{module}", lambda d, real=real: listed.append(1) or real(d)
        )
    for _ in range(3):
        assert MediaArchive(archive).read("a.jpg", MediumKind.IMAGE) == b"first"
    assert len(listed) == 1
    write_zip(archive, {"a.jpg": b"other"})
    assert MediaArchive(archive).read("a.jpg", MediumKind.IMAGE) == b"other"
    assert len(listed) == 2


def test_an_index_that_is_damaged_is_made_again(archive):
    MediaArchive(archive).close()
    (index,) = archive_index._index_folder().glob("*.sqlite")
    for damage in (b"", b"no database", index.read_bytes()[:5000]):
        index.write_bytes(damage)
        assert MediaArchive(archive).read("a.jpg", MediumKind.IMAGE) == b"first"
    # a page that is bad is named when it is read
    root = MediaArchive(archive)
    with sqlite3.connect(index) as connection:
        connection.execute("drop table members")
    connection.close()
    with pytest.raises(CorruptError, match="delete it"):
        MediaArchive(archive).find(image("a.jpg"))
    root.close()


def test_an_index_is_not_left_where_others_could_write_it(archive, tmp_path):
    MediaArchive(archive).close()
    folder = archive_index._index_folder()
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    with pytest.raises(ConfigError, match="TMPDIR"):
        MediaArchive(archive)


def test_workers_that_start_together_make_one_index(archive, tmp_path):
    code = (
        "import sys, tempfile; tempfile.tempdir = sys.argv[2]\n"
        "from pipelines.ingest.media.archive import MediaArchive\n"
        "from schemas.record import MediumKind\n"
        "print(MediaArchive(sys.argv[1]).read('a.jpg', MediumKind.IMAGE))"
    )
    command = [sys.executable, "-c", code, str(archive), str(tmp_path / "tmp")]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [worker.communicate()[0].strip() for worker in workers] == ["b'first'"] * 3
    assert len([*archive_index._index_folder().glob("*.sqlite")]) == 1
    assert not [*archive_index._index_folder().glob(".writing*")]


def test_an_archive_that_changes_while_it_is_read_ends_the_run(archive):
    root = MediaArchive(archive)
    with archive.open("ab") as file:
        file.write(b"more")
    with pytest.raises(CorruptError, match="run the command again"):
        root.read("a.jpg", MediumKind.IMAGE)


@pytest.mark.parametrize(("mode", "command"), [("gz", "gunzip -k"), ("bz2", "bunzip2 -k"), ("xz", "unxz -k")])
def test_compressed_tars_are_refused_with_the_way_out(tmp_path, mode, command):
    with tarfile.open(tmp_path / "a.tar", f"w:{mode}") as archive:
        archive.addfile(tarfile.TarInfo("a.jpg"))
    with pytest.raises(ConfigError, match=command):
        MediaArchive(tmp_path / "a.tar")


@pytest.mark.parametrize("data", [b"", b"{}", bytes(2048), b"\x89PNG\r\n\x1a\n" + bytes(600)])
def test_what_is_no_archive_is_refused(tmp_path, data):
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(ConfigError, match="no tar and no zip"):
        MediaArchive(tmp_path / "a.zip")


def test_duplicate_names_are_ambiguous_in_every_spelling(tmp_path):
    with warnings.catch_warnings(), zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        warnings.simplefilter("ignore")
        for name in ("a.jpg", "a.jpg", "b.jpg", "./b.jpg"):
            archive.writestr(name, name)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("a.jpg", "a.jpg", "b.jpg", "./b.jpg"):
            archive.addfile(tarfile.TarInfo(name))
    for path in ("a.zip", "a.tar"):
        root = MediaArchive(tmp_path / path)
        for name in ("a.jpg", "b.jpg", "b.png"):
            assert code_of(lambda root=root, name=name: root.find(image(name))) is RejectCode.AMBIGUOUS_FILE
        assert code_of(lambda root=root: root.read("a.jpg", MediumKind.IMAGE)) is RejectCode.AMBIGUOUS_FILE


HOSTILE_NAMES = ["/etc/a.jpg", "../a.jpg", "x/../../a.jpg", "..\\a.jpg", "C:/a.jpg", "a\n.jpg", ""]


def test_members_with_names_outside_are_nowhere(tmp_path):
    write_tar(tmp_path / "a.tar", dict.fromkeys(HOSTILE_NAMES, b"x") | {"good.jpg": b"good"})
    write_zip(tmp_path / "a.zip", dict.fromkeys(HOSTILE_NAMES[:-1], b"x") | {"good.jpg": b"good"})
    for path, list_members in (("a.tar", list_tar), ("a.zip", list_zip)):
        with (tmp_path / path).open("rb") as file:
            assert [member.name for member in list_members(file.fileno())] == ["good.jpg"]
        root = MediaArchive(tmp_path / path)
        assert root.read("good.jpg", MediumKind.IMAGE) == b"good"
        assert code_of(lambda root=root: root.find(image("etc/a.jpg"))) is RejectCode.MISSING_FILE
        assert code_of(lambda root=root: root.find(image("a.jpg"))) is RejectCode.MISSING_FILE


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_of_a_tar_are_no_plain_files(tmp_path, kind):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("a.jpg")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    root = MediaArchive(tmp_path / "a.tar")
    assert code_of(lambda: root.find(image("a.jpg"))) is RejectCode.UNREADABLE_FILE
    assert code_of(lambda: root.read("a.jpg", MediumKind.IMAGE)) is RejectCode.UNREADABLE_FILE


def test_long_names_and_sizes_in_extended_headers_are_read(tmp_path):
    name = "/".join(["folder" * 10] * 5) + "/ü.jpg"
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        path = write_tar(tmp_path / f"{form}.tar", {name: b"long", "after.jpg": b"after"}, form)
        root = MediaArchive(path)
        assert root.read(root.find(image(name)), MediumKind.IMAGE) == b"long"
        assert root.read(root.find(image("after.jpg")), MediumKind.IMAGE) == b"after"


def test_sparse_members_are_refused_and_what_follows_is_found(tmp_path):
    with (tmp_path / "sparse.jpg").open("wb") as file:
        file.seek(1 << 20)
        file.write(b"end")
    (tmp_path / "after.jpg").write_bytes(b"after")
    for form in ("gnu", "posix"):
        command = ["tar", "-C", str(tmp_path), f"--format={form}", "-S", "-cf", str(tmp_path / "a.tar")]
        subprocess.run([*command, "sparse.jpg", "after.jpg"], check=True)
        root = MediaArchive(tmp_path / "a.tar")
        assert code_of(lambda root=root: root.find(image("sparse.jpg"))) is RejectCode.UNREADABLE_FILE
        assert root.read("after.jpg", MediumKind.IMAGE) == b"after"


def tar_header(name, size=b"00000000003\0", kind=b"0"):
    header = bytearray(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT))
    header[124:136] = size
    header[156:157] = kind
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


PADDED = b"abc" + bytes(509)


@pytest.mark.parametrize(
    "data",
    [
        tar_header("a.jpg") + PADDED + b"garbage instead of a header".ljust(512, b"?"),
        tar_header("a.jpg") + PADDED + tar_header("b.jpg")[:100],
        tar_header("a.jpg") + PADDED + tar_header("b.jpg", b"00000077777\0") + PADDED,
        tar_header("a.jpg") + PADDED + tar_header("b.jpg", b"\xff" * 12) + PADDED,
        tar_header("a.jpg") + PADDED + tar_header("b.jpg", b"\x80" + b"\x7f" * 11) + PADDED,
        tar_header("x", b"77777777777\0", b"x") + PADDED,
        tar_header("x", b"\xff" * 12, b"x") + PADDED,
        tar_header("x", b"77777777777\0", b"L") + PADDED,
        (tar_header("x", b"00000000003\0", b"L") + PADDED) * 2000,
        tar_header("x", b"00000000003\0", b"x") + PADDED,
    ],
)
def test_tars_that_are_cut_or_lie_are_named_before_anything_is_read(tmp_path, data):
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(CorruptError, match=r"tar .*a\.tar: it is cut or damaged"):
        MediaArchive(tmp_path / "a.tar")


def zip_of(name, data, method=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr(name, data)
    return bytearray(file.getvalue())


def directory_of(data):
    return data.index(b"PK\x01\x02")


def test_a_bomb_is_refused_by_its_declared_size(tmp_path):
    (tmp_path / "a.zip").write_bytes(zip_of("a.jpg", bytes(3 << 20)))
    root = MediaArchive(tmp_path / "a.zip")
    assert root.state("a.jpg").num_bytes == 3 << 20
    assert code_of(lambda: root.read("a.jpg", MediumKind.IMAGE)) is RejectCode.IMAGE_TOO_LARGE


def test_a_small_blank_picture_is_no_bomb(tmp_path):
    (tmp_path / "a.zip").write_bytes(zip_of("a.jpg", bytes(1 << 20)))
    assert MediaArchive(tmp_path / "a.zip").read("a.jpg", MediumKind.IMAGE) == bytes(1 << 20)


@pytest.mark.parametrize("declared", [0, 1, 99, 101, 5000])
def test_a_size_that_lies_is_found_out(tmp_path, declared):
    data = zip_of("a.jpg", bytes(100_000) + os.urandom(10))
    struct.pack_into("<L", data, directory_of(data) + 24, declared)
    (tmp_path / "a.zip").write_bytes(data)
    root = MediaArchive(tmp_path / "a.zip")
    assert code_of(lambda: root.read("a.jpg", MediumKind.IMAGE)) is RejectCode.UNREADABLE_FILE


def test_unpacking_stops_at_the_declared_size(tmp_path, monkeypatch):
    data = zip_of("a.jpg", bytes(50_000_000))
    struct.pack_into("<L", data, directory_of(data) + 24, 100)
    (tmp_path / "a.zip").write_bytes(data)
    limits = []
    real = zlib.decompressobj

    class Watched:
        def __init__(self, *arguments):
            self._real = real(*arguments)

        def decompress(self, packed, limit):
            limits.append(limit)
            return self._real.decompress(packed, limit)

        @property
        def eof(self):
            return self._real.eof

    monkeypatch.setattr(zip_archive.zlib, "decompressobj", Watched)
    root = MediaArchive(tmp_path / "a.zip")
    assert code_of(lambda: root.read("a.jpg", MediumKind.IMAGE)) is RejectCode.UNREADABLE_FILE
    assert limits in ([], [101])


@pytest.mark.parametrize(
    ("offset", "form", "value"),
    [
        (8, "<H", 1),  # encrypted
        (10, "<H", 14),  # LZMA
        (16, "<L", 12345),  # checksum
        (20, "<L", 7),  # packed size
        (20, "<L", 0x7FFFFFFF),
        (24, "<L", 0xFFFFFFFF),  # 64-bit size without its field
        (34, "<H", 3),  # another disk
        (38, "<L", 0o120777 << 16),  # a link
        (38, "<L", 0o020666 << 16),  # a device
        (42, "<L", 5),  # offset
        (42, "<L", 0x7FFFFFFF),
    ],
)
def test_entries_that_lie_or_need_more_are_unreadable(tmp_path, offset, form, value):
    data = zip_of("a.jpg", b"some bytes" * 30)
    struct.pack_into("<B", data, directory_of(data) + 5, 3)
    struct.pack_into(form, data, directory_of(data) + offset, value)
    (tmp_path / "a.zip").write_bytes(data)
    root = MediaArchive(tmp_path / "a.zip")
    assert code_of(lambda: root.read("a.jpg", MediumKind.IMAGE)) is RejectCode.UNREADABLE_FILE


def test_zips_that_are_cut_or_split_are_named_before_anything_is_read(tmp_path):
    whole = bytes(write_zip(tmp_path / "a.zip").read_bytes())
    end = whole.rindex(b"PK\x05\x06")
    split = bytearray(whole)
    split[end + 4 : end + 8] = b"\1\0\1\0"
    counts = bytearray(whole)
    counts[end + 8 : end + 12] = b"\x50\0\x50\0"
    signature = bytearray(whole)
    signature[whole.index(b"PK\x01\x02")] = 0
    where = bytearray(whole)
    where[end + 16 : end + 20] = b"\xf0\xff\xff\x7f"
    for data in (whole[:-30], whole[: len(whole) // 2], split, counts, signature, where):
        (tmp_path / "b.zip").write_bytes(data)
        with pytest.raises(CorruptError, match=r"zip .*b\.zip: "):
            MediaArchive(tmp_path / "b.zip")


def test_comments_and_a_zip_inside_a_zip_do_not_lead_astray(tmp_path):
    inner = bytes(zip_of("inner.jpg", b"inner"))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("outer.jpg", b"outer")
        archive.writestr("nested.zip", inner)
        archive.comment = b"PK\x05\x06 is how an end begins"
    root = MediaArchive(tmp_path / "a.zip")
    assert root.read("outer.jpg", MediumKind.IMAGE) == b"outer"
    assert code_of(lambda: root.find(image("inner.jpg"))) is RejectCode.MISSING_FILE
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.comment = b"nothing in it"
    assert code_of(lambda: MediaArchive(tmp_path / "b.zip").find(image("a.jpg"))) is RejectCode.MISSING_FILE


def test_archives_of_more_members_than_sixteen_bits_count_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 5)
    data = bytearray(write_zip(tmp_path / "a.zip").read_bytes())
    end = data.rindex(b"PK\x05\x06")
    assert b"PK\x06\x06" in data
    data[end + 8 : end + 12] = b"\xff" * 4
    (tmp_path / "b.zip").write_bytes(data)
    root = MediaArchive(tmp_path / "b.zip")
    for name, content in MEMBERS.items():
        assert root.read(name, MediumKind.IMAGE) == content
    data[data.index(b"PK\x06\x06")] = 0
    (tmp_path / "b.zip").write_bytes(data)
    with pytest.raises(CorruptError, match="64-bit end record"):
        MediaArchive(tmp_path / "b.zip")


def test_a_directory_of_several_windows_is_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(zip_archive, "_WINDOW_BYTES", 200_000)
    names = [f"{n:03d}.jpg" for n in range(20)]
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for n, name in enumerate(names):
            info = zipfile.ZipInfo(name)
            info.comment = b"PK\x01\x02" * (n * 800)
            archive.writestr(info, name)
    root = MediaArchive(tmp_path / "a.zip")
    assert [root.read(name, MediumKind.IMAGE).decode() for name in names] == names


def test_sixty_four_bit_sizes_are_read(tmp_path):
    with (
        zipfile.ZipFile(tmp_path / "a.zip", "w") as archive,
        archive.open("a.jpg", "w", force_zip64=True) as f,
    ):
        f.write(b"wide")
    data = bytearray((tmp_path / "a.zip").read_bytes())
    entry = directory_of(data)
    offset = struct.unpack_from("<L", data, entry + 42)[0]
    # what a writer of large archives does: all three values stand in the extra field
    struct.pack_into("<LL", data, entry + 20, 0xFFFFFFFF, 0xFFFFFFFF)
    struct.pack_into("<L", data, entry + 42, 0xFFFFFFFF)
    extra = struct.pack("<HHQQQ", 1, 24, 4, 4, offset)
    old_extra = struct.unpack_from("<H", data, entry + 30)[0]
    struct.pack_into("<H", data, entry + 30, len(extra))
    name_end = entry + 46 + 5
    data[name_end : name_end + old_extra] = extra
    end = data.rindex(b"PK\x05\x06")
    struct.pack_into("<L", data, end + 12, end - entry)
    (tmp_path / "b.zip").write_bytes(data)
    assert MediaArchive(tmp_path / "b.zip").read("a.jpg", MediumKind.IMAGE) == b"wide"


ZIPPED = bytes(zip_of("a.jpg", b"some bytes" * 30) + b"")
TARRED = tar_header("a.jpg") + PADDED + tar_header("sub/b.jpg") + PADDED + bytes(1024)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.sampled_from([ZIPPED, TARRED]),
    flips=st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=6),
    cut=st.one_of(st.none(), st.integers(0, 3000)),
)
def test_damaged_archives_give_members_or_typed_errors(tmp_path, data, flips, cut):
    damaged = bytearray(data)
    for position, value in flips:
        damaged[position % len(damaged)] = value
    damaged = bytes(damaged[: cut % len(damaged)] if cut is not None else damaged)
    path = tmp_path / "damaged"
    path.write_bytes(damaged)
    with path.open("rb") as file:
        for list_members in (list_zip, list_tar):
            try:
                members = [*list_members(file.fileno())]
            except CorruptError:
                continue
            for member in members:
                assert not member.name.startswith(("/", ".."))
                if list_members is list_zip and not member.problem:
                    try:
                        found = zip_archive.read_zip_member(file.fileno(), member, MediumKind.IMAGE)
                    except SampleError:
                        continue
                    assert zlib.crc32(found) == member.crc
