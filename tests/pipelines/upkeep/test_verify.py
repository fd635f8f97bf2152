"""Any flipped bit of a corpus is found, and so is whatever does not fit together though every digest is right."""

import io
import random

import pytest

from infra.tar import read_index, read_members
from operators.feature_file import read_header
from pipelines.commit import load_manifest
from pipelines.engine import SerialEngine
from pipelines.process_engine import ProcessesEngine
from pipelines.upkeep.verify import verify
from schemas.errors import NotFoundError


def check(storage):
    return verify(storage, SerialEngine())


def flip(storage, path, place, bit=0):
    data = bytearray(storage.local_path(path).read_bytes())
    data[place] ^= 1 << bit
    storage.local_path(path).write_bytes(data)


def listed_paths(manifest):
    return sorted({entry.path for entry in manifest.list_objects()})


def test_a_sound_corpus_has_no_findings(corpus):
    manifest = load_manifest(corpus)
    found = check(corpus)
    assert found.findings == ()
    assert found.num_items == sum(leaf.num_items for leaf in manifest.plan) == 10
    assert found.num_objects == len(listed_paths(manifest))
    assert found.num_bytes == sum(entry.num_bytes for entry in manifest.list_objects())
    assert (found.num_manifests, found.num_unlisted, found.num_scratch) == (3, 0, 0)
    assert found.num_commits == len(manifest.shards) + len(manifest.shards) - 1


def test_any_engine_finds_the_same(corpus):
    flip(corpus, load_manifest(corpus).shards[0].tar.path, 700)
    with ProcessesEngine(2) as engine:
        assert verify(corpus, engine) == check(corpus)


def test_there_must_be_a_corpus(tmp_path, corpus):
    with pytest.raises(NotFoundError, match="holds no corpus"):
        check(type(corpus)(tmp_path / "none"))


def regions_of_tar(data):
    """A byte of every kind that a shard is made of."""
    (first, payload), *_ = read_members(io.BytesIO(data))
    regions = {
        "name": 0,
        "size": 124,
        "checksum": 148,
        "rest of header": 500,
        "payload": first.offset,
        "end of payload": first.offset + first.size - 1,
        "end of archive": len(data) - 1,
    }
    if first.size % 512:
        regions["padding"] = first.offset + first.size
    if first.name.endswith(".feat.bin"):
        header = read_header(payload)
        regions["view"] = first.offset + header.views[0].offset
        regions["last view"] = first.offset + header.views[-1].offset + header.views[-1].length - 1
        regions["before the views"] = first.offset + header.views[0].offset - 1
        regions["view table"] = first.offset + header.header_bytes - 1
    return regions


@pytest.mark.parametrize("kind", ["sample", "feature"])
def test_a_flip_in_any_region_of_a_tar_is_found(corpus, kind):
    manifest = load_manifest(corpus)
    (features,) = manifest.features.values()
    shards = {"sample": manifest.shards, "feature": features.shards}[kind]
    entry = shards[0].tar
    regions = regions_of_tar(corpus.read_bytes(entry.path))
    assert len(regions) >= 7
    for place in regions.values():
        flip(corpus, entry.path, place, bit=2)
        findings = check(corpus).findings
        assert [finding.where for finding in findings] == [entry.path]
        assert "does not hold the bytes that were written: " in findings[0].what
        flip(corpus, entry.path, place, bit=2)
    assert check(corpus).findings == ()


def test_damage_is_told_by_member(corpus):
    shard = load_manifest(corpus).shards[0]
    member = read_index(corpus.read_bytes(shard.index.path))[1]
    flip(corpus, shard.tar.path, member.offset + member.size // 2)
    (finding,) = check(corpus).findings
    assert member.name in finding.what
    assert finding.way_out == "delete it and run the build again"


def test_a_flip_in_every_object_is_found(corpus):
    chooser = random.Random(5)
    manifest = load_manifest(corpus)
    paths = [*listed_paths(manifest), *corpus.list("manifests"), "corpus.json"]
    assert len(paths) > 20
    places = [(path, chooser.randrange(len(corpus.read_bytes(path)))) for path in paths]
    for path, place in places:
        bit = chooser.randrange(8)
        flip(corpus, path, place, bit)
        assert path in {finding.where for finding in check(corpus).findings} or path in (
            manifest.path,
        ), (path, place, bit)
        assert check(corpus).findings
        flip(corpus, path, place, bit)
    assert check(corpus).findings == ()
