"""What later runs read of media: nothing that is unchanged, all that was touched, and all when told so."""

import json
import os
from pathlib import Path

import pytest
from fetches import watch_fetches
from few_media import make_picture, talk, write_media
from msgspec import structs
from watched_storage import DiedError, MortalStorage

from infra.storage import LocalStorage
from pipelines.engine import SerialEngine
from pipelines.ingest import scan
from pipelines.ingest.flow import ingest
from pipelines.ingest.retry import retry
from pipelines.ingest.tables import read_media, read_quarantine
from pipelines.shard.flow import shard
from schemas.configuration import build
from schemas.errors import MismatchError, RejectCode, SampleError
from schemas.recipe import Recipe

NAMES = ("a.jpg", "b.png", "c.gif", "d.jpg", "sub/a.jpg", "cut.jpg")


@pytest.fixture
def folder(tmp_path):
    write_media(tmp_path / "media")
    return tmp_path


@pytest.fixture
def storage(tmp_path):
    return LocalStorage(tmp_path / "corpus")


@pytest.fixture
def recipe(folder):
    """Six media, each named twice."""
    return make_recipe(folder, NAMES * 2)


@pytest.fixture(autouse=True)
def buckets(monkeypatch):
    """A bucket for each medium or two: what was probed is kept bucket by bucket."""
    monkeypatch.setattr(scan, "TYPICAL_RECORD_BYTES", 100)
    monkeypatch.setattr(scan, "RECORDS_PER_BUCKET", 1)


@pytest.fixture
def opened(monkeypatch):
    """The media that are opened, in order."""
    seen = []
    watch_fetches(monkeypatch, lambda fetched: seen.append(fetched.location) or fetched)
    return seen


def make_recipe(folder, names):
    rows = [
        {"id": n, "image": name, "conversations": talk("<image>q", f"{n}")} for n, name in enumerate(names)
    ]
    (folder / "rows.json").write_text(json.dumps(rows))
    source = {
        "name": "s",
        "format": "llava",
        "annotations": str(folder / "rows.json"),
        "media_root": str(folder / "media"),
    }
    return build({"name": "again", "sources": [source]}, Recipe, "again")


def replace_unseen(path, data):
    """Other bytes of the same size under the same name and time."""
    before = path.stat()
    assert len(data) == before.st_size
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def digests_of(storage, manifest):
    return {row.location: row.facts.sha256 for entry in manifest.media for row in read_media(storage, entry)}


def test_a_second_run_reads_no_medium(recipe, storage, opened):
    first = ingest(recipe, storage, SerialEngine())
    assert sorted(opened) == sorted(NAMES)
    assert (first.probed.num_read, first.probed.num_unchanged) == (6, 0)
    second = ingest(recipe, storage, SerialEngine())
    assert (second.probed.num_read, second.probed.num_bytes_read, second.probed.num_unchanged) == (0, 0, 6)
    assert len(opened) == 6
    assert second.manifest == first.manifest


def test_what_was_damaged_is_read_and_kept_again(recipe, storage, opened):
    ingest(recipe, storage, SerialEngine())
    whole = {path: storage.read_bytes(path) for path in storage.list("probes")}
    assert len(whole) > 1
    for path, data in whole.items():
        storage.write_scratch(path, [data[:-1]])
    opened.clear()
    ingest(recipe, storage, SerialEngine())
    assert sorted(opened) == sorted(NAMES)
    assert {path: storage.read_bytes(path) for path in storage.list("probes")} == whole


def test_a_third_run_with_other_buckets_reads_no_medium(recipe, folder, storage, opened, monkeypatch):
    ingest(recipe, storage, SerialEngine())
    monkeypatch.setattr(scan, "TYPICAL_RECORD_BYTES", 1000)
    fewer = ingest(make_recipe(folder, NAMES), storage, SerialEngine())
    assert (fewer.probed.num_read, fewer.probed.num_unchanged) == (0, 6)
    monkeypatch.setattr(scan, "TYPICAL_RECORD_BYTES", 10)
    more = ingest(recipe, storage, SerialEngine())
    assert (more.probed.num_read, more.probed.num_unchanged) == (0, 6)
    assert sorted(opened) == sorted(NAMES)


def test_a_touched_file_is_read_again_and_no_other(recipe, folder, storage, opened):
    first = ingest(recipe, storage, SerialEngine()).manifest
    opened.clear()
    os.utime(folder / "media/b.png", ns=(1, 1))
    second = ingest(recipe, storage, SerialEngine())
    assert opened == ["b.png"]
    assert second.manifest == first
    (folder / "media/b.png").write_bytes(make_picture(200, "PNG"))
    third = ingest(recipe, storage, SerialEngine()).manifest
    assert opened == ["b.png", "b.png"]
    before, after = digests_of(storage, first), digests_of(storage, third)
    assert {name for name in before if before[name] != after[name]} == {"b.png"}


def test_a_change_behind_the_clock_is_found_by_shard_and_mended_by_reread(recipe, folder, storage):
    ingest(recipe, storage, SerialEngine())
    picture = folder / "media/c.gif"
    changed = picture.read_bytes()[:-1] + b"\0"
    replace_unseen(picture, changed)
    old = digests_of(storage, ingest(recipe, storage, SerialEngine()).manifest)
    with pytest.raises(MismatchError, match=r"medium_changed: source s: .*/media/c\.gif .*--reread"):
        shard(recipe, storage, SerialEngine())
    mended = ingest(recipe, storage, SerialEngine(), reread=True)
    assert (mended.probed.num_read, mended.probed.num_unchanged) == (6, 0)
    found = digests_of(storage, mended.manifest)
    assert {name for name in old if old[name] != found[name]} == {"c.gif"}
    shard(recipe, storage, SerialEngine())


def test_what_was_read_again_stays_known(recipe, folder, storage):
    ingest(recipe, storage, SerialEngine())
    for shade in range(4):
        for name in NAMES[:-1]:
            path = folder / "media" / name
            replace_unseen(path, path.read_bytes()[:-1] + bytes([shade]))
        mended = ingest(recipe, storage, SerialEngine(), reread=True).manifest
        later = ingest(recipe, storage, SerialEngine())
        assert digests_of(storage, later.manifest) == digests_of(storage, mended)
        assert (later.probed.num_read, later.probed.num_unchanged) == (0, 6)


def test_a_run_that_died_while_reading_again_leaves_nothing_old(recipe, folder, storage):
    ingest(recipe, storage, SerialEngine())
    for num_writes in range(4, 12):
        for name in NAMES[:-1]:
            path = folder / "media" / name
            replace_unseen(path, path.read_bytes()[:-1] + bytes([num_writes]))
        with pytest.raises(DiedError):
            ingest(recipe, MortalStorage(storage.url, num_writes), SerialEngine(), reread=True)
        fresh = ingest(recipe, LocalStorage(folder / f"fresh{num_writes}"), SerialEngine())
        found = ingest(recipe, storage, SerialEngine())
        assert found.manifest == fresh.manifest


def test_a_run_that_died_in_the_probe_goes_on_from_what_it_knows(recipe, storage, opened):
    num_known = []
    while not num_known or num_known[-1] < 6:
        there = LocalStorage(Path(f"{storage.url}-{len(num_known)}"))
        opened.clear()
        with pytest.raises(DiedError):
            ingest(recipe, MortalStorage(there.url, len(num_known)), SerialEngine())
        num_read = len(opened)
        resumed = ingest(recipe, there, SerialEngine()).probed
        assert len(opened) - num_read == resumed.num_read == 6 - resumed.num_unchanged
        # of the bucket that was in work when it died, nothing is kept
        assert 0 <= num_read - resumed.num_unchanged <= 2
        num_known.append(resumed.num_unchanged)
    assert num_known == sorted(num_known)
    assert len(set(num_known)) > 4


def test_a_bad_medium_is_not_read_again_and_stays_rejected(recipe, storage, opened):
    for _ in range(2):
        manifest = ingest(recipe, storage, SerialEngine()).manifest
        rejects = [row for entry in manifest.quarantine for row in read_quarantine(storage, entry)]
        assert [reject.code for reject in rejects] == ["truncated_image"] * 2
    assert opened.count("cut.jpg") == 1


@pytest.mark.parametrize("code", [RejectCode.UNREADABLE_FILE, RejectCode.DECODER_TIMEOUT])
def test_what_may_pass_is_tried_again(recipe, storage, monkeypatch, code):
    def refuse(fetched):
        return structs.replace(fetched, data=SampleError(code, f"{fetched.location}: not today"))

    with monkeypatch.context() as patch:
        watch_fetches(patch, refuse)
        (totals,) = ingest(recipe, storage, SerialEngine()).manifest.sources
        assert totals.rejects == {code.value: 12}
    mended = retry(recipe, storage, SerialEngine())
    assert mended.probed.num_read == 6
    assert mended.manifest.sources[0].rejects == {"truncated_image": 2}
