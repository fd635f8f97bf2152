"""Any flipped bit of a corpus is found, and so is what does not fit together though its digest is right."""

import io
import random
from pathlib import Path

import pytest
from test_collect import OneToken

from infra.tar import pack_index, read_index, read_members, write_shard
from operators.feature_file import read_header
from pipelines.audit.flow import AuditPlan, audit
from pipelines.commit import load_manifest, publish_manifest, put_object
from pipelines.engine import SerialEngine
from pipelines.process_engine import ProcessesEngine
from pipelines.stream.lengths import count_lengths
from pipelines.upkeep.inventory import read_commit
from pipelines.upkeep.verify import verify
from schemas.corpus import POINTER_PATH, FeatureReject, ShardEntry
from schemas.errors import NotFoundError

FOLDERS = (
    "commits",
    "examples",
    "features",
    "lengths",
    "manifests",
    "media",
    "probes",
    "quarantine",
    "recipes",
    "shards",
)


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


@pytest.fixture
def full_corpus(corpus):
    """With token counts, an audit, and a shard that no manifest lists, besides."""
    manifest = load_manifest(corpus)
    count_lengths(corpus, manifest.examples, OneToken("a" * 64), SerialEngine())
    (spec,) = manifest.features
    audit(corpus, manifest, AuditPlan(spec=spec, num_views=2))
    put_object(corpus, "shards", "image-0", "tar", b"four", 1)
    return corpus


@pytest.mark.parametrize("seed", [5, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(4))])
def test_a_flip_in_every_file_is_found(full_corpus, seed):
    storage = full_corpus
    root = Path(storage.url)
    files = [file for file in sorted(root.rglob("*")) if file.is_file()]
    paths = [file.relative_to(root).as_posix() for file in files if file.stat().st_size]
    assert {path.partition("/")[0] for path in paths} == {POINTER_PATH, *FOLDERS}
    assert check(storage).findings == ()
    chooser = random.Random(seed)
    in_force = load_manifest(storage).path
    for path in paths:
        place, bit = chooser.randrange(len(storage.read_bytes(path))), chooser.randrange(8)
        flip(storage, path, place, bit)
        blamed = {finding.where for finding in check(storage).findings}
        assert (POINTER_PATH if path == in_force else path) in blamed, (path, place, bit)
        flip(storage, path, place, bit)
    assert check(storage).findings == ()


@pytest.mark.parametrize("change", ["gone", "shorter", "longer"])
def test_an_object_of_another_size_is_found(corpus, change):
    manifest = load_manifest(corpus)
    (features,) = manifest.features.values()
    shard = features.shards[0]
    for entry in (manifest.examples[0], features.spec, shard.index, shard.tar):
        path = corpus.local_path(entry.path)
        data = path.read_bytes()
        if change == "gone":
            path.unlink()
        else:
            path.write_bytes(data[:-1] if change == "shorter" else data + b"\0")
        assert entry.path in {finding.where for finding in check(corpus).findings}
        path.write_bytes(data)
    assert check(corpus).findings == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"{", "fields are wrong"),
        (lambda data: data.replace(b'"items":', b'"items":1'), "not the record that was written"),
        (lambda data: data.replace(b'"items":', b'"items": '), "not the record that was written"),
        (lambda data: data.replace(b'"objects"', b'"0bjects"'), "fields are wrong"),
    ],
)
def test_a_damaged_commit_record_is_found(corpus, change, message):
    path = corpus.list("commits")[0]
    corpus.write_scratch(path, [change(corpus.read_bytes(path))])
    (finding,) = check(corpus).findings
    assert finding.where == path
    assert message in finding.what


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unit": "shard-image-other"}, "is the record of another unit"),
        ({"num_rows": 9}, "tells otherwise of shards/image-000-"),
        ({"sha256": "0" * 64}, "tells another digest of shards/image-000-"),
    ],
)
def test_a_record_that_was_written_wrong_is_found(corpus, change, message):
    path = next(path for path in corpus.list("commits") if "shard-image-000" in path)
    record = read_commit(corpus, path)
    first, *others = record.objects
    values = (
        {"unit": change["unit"]}
        if "unit" in change
        else {"objects": [first.model_copy(update=change), *others]}
    )
    corpus.write_scratch(path, [record.model_copy(update=values).to_bytes()])
    findings = check(corpus).findings
    assert {finding.where for finding in findings} == {path}
    assert any(finding.what.startswith(message) for finding in findings)


def test_what_no_manifest_lists_is_told_and_no_error(corpus):
    put_object(corpus, "shards", "image-0", "tar", b"four", 1)
    corpus.write_scratch("scratch/run/a", [b"xy"])
    corpus.write_scratch("report.html", [b"x"])
    found = check(corpus)
    assert found.findings == ()
    assert (found.num_unlisted, found.num_unlisted_bytes) == (1, 4)
    assert (found.num_scratch, found.num_scratch_bytes) == (1, 2)


def republish(storage, **changes):
    manifest = load_manifest(storage)
    publish_manifest(storage, manifest.model_copy(update=changes), manifest)


def rewrite(storage, shard, change):
    """A shard with other members, sound by itself: its entry."""
    old = io.BytesIO(storage.read_bytes(shard.tar.path))
    members = change([(member.name, data) for member, data in read_members(old)])
    file = io.BytesIO()
    written = write_shard(members, file)
    folder = shard.tar.path.rpartition("/")[0]
    num_items = sum(name.endswith(".json") for name, _ in members)
    return ShardEntry(
        name=shard.name,
        tar=put_object(storage, folder, shard.name, "tar", file.getvalue(), num_items),
        index=put_object(storage, folder, shard.name, "idx", pack_index(written.members), len(members)),
    )


def change_last(old, new):
    return lambda members: [*members[:-1], (members[-1][0], members[-1][1].replace(old, new))]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda members: members[2:], "is not there"),
        (lambda members: [*members, ("zzz.json", b"{}")], "belongs to no item of this shard"),
        (change_last(b'"examples"', b'"example5"'), "holds other bytes"),
        (lambda members: [(members[0][0], b"other"), *members[1:]], "holds other bytes"),
    ],
)
def test_a_sample_shard_that_does_not_fit_its_tables_is_found(corpus, change, message):
    first, *others = load_manifest(corpus).shards
    changed = rewrite(corpus, first, change)
    republish(corpus, shards=[changed, *others])
    findings = check(corpus).findings
    assert {finding.where for finding in findings} == {changed.tar.path}
    assert message in findings[-1].what or message in findings[0].what


def shift_view(members):
    """The views of the first item, without its last one."""
    (name, data), *others = members
    return [(name, data[:-64]), *others]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda members: members[2:], "is not there"),
        (change_last(b'"width_px"', b'"width_pt"'), "tells other facts than the tables"),
        (lambda members: [*members[:-1], (members[-1][0], b"{")], "is not readable"),
        (shift_view, "is damaged"),
        (lambda members: [(members[0][0], members[0][1] + bytes(64)), *members[1:]], "between its views"),
    ],
)
def test_a_feature_shard_that_does_not_fit_its_tables_is_found(corpus, change, message):
    ((digest, features),) = load_manifest(corpus).features.items()
    changed = rewrite(corpus, features.shards[0], change)
    shards = [changed, *features.shards[1:]]
    republish(corpus, features={digest: features.model_copy(update={"shards": shards})})
    findings = check(corpus).findings
    assert {finding.where for finding in findings} == {changed.tar.path}
    assert any(message in finding.what for finding in findings)


def test_shards_that_changed_places_are_found(corpus):
    one, other, *others = load_manifest(corpus).shards
    swapped = [
        one.model_copy(update={"name": other.name}),
        other.model_copy(update={"name": one.name}),
        *others,
    ]
    republish(corpus, shards=swapped)
    blamed = {finding.where for finding in check(corpus).findings}
    assert blamed == {one.tar.path, other.tar.path}


def test_an_index_of_another_tar_is_found(corpus):
    one, other, *others = load_manifest(corpus).shards
    republish(corpus, shards=[one.model_copy(update={"index": other.index}), other, *others])
    blamed = {finding.where for finding in check(corpus).findings}
    assert blamed == {other.index.path}


def test_totals_that_do_not_add_up_are_found(corpus):
    manifest = load_manifest(corpus)
    ((digest, features),) = manifest.features.items()
    source = manifest.sources[0]
    assert source.rejects == {"missing_file": 1}
    leaf, *leaves = manifest.plan

    def of_source(**changes):
        return {"sources": [source.model_copy(update=changes), *manifest.sources[1:]]}

    def of_features(**changes):
        return {"features": {digest: features.model_copy(update=changes)}}

    reject = FeatureReject(key="0" * 32, code="damaged_image", message="")
    changes = [
        (of_source(written=source.written + 1), "examples of pictures in the tables"),
        (of_source(rejects={"missing_file": 2}), "rejects of pictures missing_file in the tables"),
        (of_source(rejects={}), "rejects of pictures missing_file in the tables"),
        (of_source(taken=source.taken + 1), "written or rejected"),
        (of_source(read=source.read + 1), "by files"),
        ({"num_media": manifest.num_media + 1}, "media in the tables"),
        ({"num_media_bytes": 1}, "bytes of media in the tables"),
        ({"num_media_uses": 1}, "uses of media in the tables"),
        ({"media_digest": "1"}, "sum of keys in the tables"),
        (
            {"plan": [leaf.model_copy(update={"num_items": 9}), *leaves]},
            "items in the tables, 9 were",
        ),
        ({"plan": leaves}, "1 shards are not those of the plan"),
        ({"shards": manifest.shards[1:]}, "1 shards are not those of the plan"),
        ({"plan": [leaf, *manifest.plan]}, "overlap or are not sorted"),
        (of_features(num_items=1), "items, 1 were written"),
        (of_features(num_views=1), "views, 1 were written"),
        (of_features(rejects=[reject]), "rejects of items, 1 were written"),
        (of_features(shards=features.shards[1:]), "1 shards are not those of the plan"),
    ]
    for values, message in changes:
        republish(corpus, **values)
        findings = check(corpus).findings
        assert any(message in finding.what for finding in findings), (message, findings)
        publish_manifest(corpus, manifest, load_manifest(corpus))
    assert check(corpus).findings == ()


def test_an_item_without_features_must_be_a_reject(corpus):
    ((digest, features),) = load_manifest(corpus).features.items()
    first, *others = features.shards
    key = read_index(corpus.read_bytes(first.index.path))[0].name.partition(".")[0]
    changed = rewrite(corpus, first, lambda members: members[2:])
    left_out = features.model_copy(
        update={
            "shards": [changed, *others],
            "num_items": features.num_items - 1,
            "num_views": features.num_views - 5,
        }
    )
    republish(corpus, features={digest: left_out})
    assert check(corpus).findings
    reject = FeatureReject(key=key, code="damaged_image", message="")
    republish(corpus, features={digest: left_out.model_copy(update={"rejects": [reject]})})
    assert check(corpus).findings == ()
