"""Garbage: what goes, what stays; and at no moment does a build or a collector ruin the other's work."""

import io
import json
import shutil
from pathlib import Path

import pytest
from encodable_inputs import draw, encode, picture_row, recipe_values, talk
from watched_storage import read_objects

from infra.storage import LocalStorage, Storage, open_storage
from operators.prompt import Prompter, PromptSize
from pipelines.commit import load_manifest, publish_manifest, put_object
from pipelines.engine import SerialEngine
from pipelines.featurize.flow import featurize
from pipelines.ingest.flow import ingest
from pipelines.notices import LEASE_S
from pipelines.shard.flow import shard
from pipelines.stream.lengths import count_lengths
from pipelines.stream.reader import FeatureReader
from pipelines.upkeep.collect import DAY_S, KeepPolicy, collect
from pipelines.upkeep.verify import verify
from schemas.configuration import build
from schemas.corpus import POINTER_PATH, Manifest, Pointer
from schemas.digest import canonical_json
from schemas.errors import ConfigError, ConflictError, CorruptError, NotFoundError
from schemas.recipe import Recipe

EVERYTHING = KeepPolicy(keep_s=0.0, min_age_s=0.0)


def removed_paths(collected):
    return {one.path for one in collected.removed}


def listed_paths(manifest):
    return {manifest.path, *(entry.path for entry in manifest.list_objects())}


def is_sound(storage):
    return verify(storage, SerialEngine()).findings == ()


def test_nothing_goes_from_a_fresh_corpus(corpus):
    before = read_objects(corpus.url)
    collected = collect(corpus, KeepPolicy())
    assert (collected.removed, collected.swept, collected.num_left) == ((), (), 0)
    assert collected.num_manifests == 3
    assert read_objects(corpus.url) == before


def test_of_an_old_corpus_the_manifest_in_force_stays_with_all_that_it_lists(corpus, grow_old):
    grow_old(corpus, 100)
    manifest = load_manifest(corpus)
    others = {path for path in corpus.list("manifests") if path != manifest.path}
    assert len(others) == 2
    assert removed_paths(collect(corpus, KeepPolicy())) == others
    assert corpus.list("manifests") == [manifest.path]
    assert len(corpus.list("commits")) == 2 * len(manifest.shards) - 1
    assert is_sound(corpus)


def test_garbage_goes_when_it_is_a_day_old_and_a_dry_run_only_tells(corpus, grow_old):
    old = [
        put_object(corpus, folder, "image-0", extension, b"x", 1).path
        for folder, extension in (
            ("examples", "parquet"),
            ("shards", "tar"),
            ("shards", "idx"),
            ("features/0123456789abcdef", "tar"),
        )
    ]
    corpus.write_scratch("scratch/run-1/a", [b"x"])
    corpus.write_scratch("scratch/run-2/a", [b"x"])
    corpus.write_scratch("scratch/run-2/b", [b"x"])
    corpus.write_scratch("report.html", [b"x"])
    corpus.write_scratch("shards/notes.txt", [b"x"])
    grow_old(corpus, 2, *old, "scratch/run-1/a", "scratch/run-2/a", "report.html", "shards/notes.txt")
    young = put_object(corpus, "shards", "image-0", "tar", b"y", 1).path
    before = read_objects(corpus.url)
    told = collect(corpus, KeepPolicy(), is_dry_run=True)
    assert removed_paths(told) == {*old, "scratch/run-1/a"}
    assert read_objects(corpus.url) == before
    assert removed_paths(collect(corpus, KeepPolicy())) == removed_paths(told)
    left = read_objects(corpus.url)
    assert set(before) - set(left) == removed_paths(told)
    assert {young, "scratch/run-2/a", "report.html", "shards/notes.txt"} <= set(left)
    assert is_sound(corpus)


def test_a_manifest_stays_as_long_as_it_may_be_pinned(corpus, grow_old):
    ingested, sharded, featurized = sorted(
        corpus.list("manifests"), key=lambda path: len(corpus.read_bytes(path))
    )
    assert featurized == load_manifest(corpus).path
    grow_old(corpus, 80, ingested)
    grow_old(corpus, 60, sharded)
    grow_old(corpus, 10, featurized)
    told = collect(corpus, KeepPolicy(), is_dry_run=True)
    assert removed_paths(told) == {ingested}
    named = KeepPolicy(named=(ingested.removeprefix("manifests/")[:8],))
    assert removed_paths(collect(corpus, named, is_dry_run=True)) == set()
    short = KeepPolicy(keep_s=DAY_S)
    assert removed_paths(collect(corpus, short)) == {ingested, sharded}
    with pytest.raises(ConfigError, match="0 manifests have a digest"):
        collect(corpus, named)


def test_work_that_is_committed_stays_for_the_build_that_will_go_on(corpus, grow_old):
    manifest = load_manifest(corpus)
    (features,) = manifest.features.values()
    rewind(corpus, manifest.model_copy(update={"features": {}}))
    committed = [entry for shard in features.shards for entry in (shard.tar, shard.index)]
    for path in corpus.list("manifests"):
        if path != load_manifest(corpus).path:
            corpus.remove(path)
    grow_old(corpus, 20)
    written_last = {features.spec.path, features.attention.path}
    assert removed_paths(collect(corpus, KeepPolicy())) == written_last
    grow_old(corpus, 40)
    gone = removed_paths(collect(corpus, KeepPolicy()))
    records = {path for path in gone if path.startswith("commits/features-")}
    assert gone - records == {entry.path for entry in committed}
    assert len(records) == len(features.shards)
    assert is_sound(corpus)


def test_features_of_items_that_are_gone_go_and_the_others_stay(corpus, inputs, grow_old, tmp_path):
    before = load_manifest(corpus)
    (spec,) = before.features
    rows = json.loads((inputs / "llava.json").read_text())
    fewer = [row for row in rows if row.get("image") != "wide.jpg"]
    (tmp_path / "fewer.json").write_text(json.dumps(fewer))
    values = recipe_values(inputs)
    values["sources"][0]["annotations"] = str(tmp_path / "fewer.json")
    recipe = build(values, Recipe, "tiny")
    for stage in (ingest, shard, featurize):
        stage(recipe, corpus, SerialEngine())
    after = load_manifest(corpus)
    held = {name: held_items(corpus, manifest, spec) for name, manifest in (("old", before), ("new", after))}
    (gone,) = held["old"].keys() - held["new"].keys()
    replaced = {held["old"][gone].tar.path, held["old"][gone].index.path}
    grow_old(corpus, 100)
    features = corpus.list("features")
    told = collect(corpus, KeepPolicy(), is_dry_run=True)
    assert {path for path in removed_paths(told) if path.startswith("features/")} == replaced
    assert corpus.list("features") == features
    collect(corpus, KeepPolicy())
    assert set(corpus.list("features")) == set(features) - replaced
    reader = FeatureReader(corpus, after, spec)
    assert all(reader.read_item(key) for key in held["new"])
    with pytest.raises(NotFoundError, match="no feature shard"):
        reader.read_item(gone)
    assert is_sound(corpus)


def held_items(storage, manifest, spec):
    """The shard of every item that has features."""
    reader = FeatureReader(storage, manifest, spec)
    shards = {entry.name: entry for entry in manifest.features[spec].shards}
    return {key: shards[name] for name in reader.list_shards() for key in reader.list_keys(name)}


class OneToken(Prompter):
    """Counts one token an example; a tokenizer by its digest."""

    max_tokens = 1
    stop_ids = frozenset()

    def __init__(self, digest):
        self._digest = digest

    @property
    def digest(self):
        return self._digest

    def measure_training(self, turns, num_media):
        return PromptSize(1, 1)


def test_token_counts_stay_as_long_as_the_examples_that_were_counted(corpus, grow_old):
    manifest = load_manifest(corpus)
    own = [
        count_lengths(corpus, manifest.examples, OneToken(digit * 64), SerialEngine()).files for digit in "ab"
    ]
    data = corpus.read_bytes(manifest.examples[0].path)
    other = put_object(corpus, "examples", "older", "parquet", data, manifest.examples[0].num_rows)
    gone = count_lengths(corpus, [other], OneToken("a" * 64), SerialEngine()).files
    for path in corpus.list("manifests"):
        if path != manifest.path:
            corpus.remove(path)
    grow_old(corpus, 20)
    assert removed_paths(collect(corpus, KeepPolicy(), is_dry_run=True)) == {other.path}
    grow_old(corpus, 40)
    kept = {entry.path for files in own for entry in files}
    assert len(kept) == 2 * len(manifest.examples)
    told = removed_paths(collect(corpus, KeepPolicy(), is_dry_run=True))
    (record,) = (path for path in told if path.startswith("commits/"))
    assert told == {other.path, gone[0].path, record}
    assert record.startswith("commits/lengths-older-")
    assert removed_paths(collect(corpus, KeepPolicy())) == told
    assert set(corpus.list("lengths")) == kept
    assert is_sound(corpus)
    assert verify(corpus, SerialEngine()).num_unlisted == 0


def test_what_cannot_be_read_stops_it(corpus, grow_old):
    put_object(corpus, "shards", "image-0", "tar", b"x", 1)
    grow_old(corpus, 2)
    path = corpus.list("commits")[0]
    corpus.write_scratch(path, [b"{"])
    with pytest.raises(CorruptError, match="is damaged"):
        collect(corpus, KeepPolicy())
    assert verify(corpus, SerialEngine()).num_unlisted == 1
    with pytest.raises(NotFoundError, match="holds no corpus"):
        collect(LocalStorage(corpus.local_path("shards")), KeepPolicy())


def test_a_dead_collector_is_in_nobodys_way_for_long(corpus, grow_old):
    manifest = load_manifest(corpus)
    wanted = manifest.shards[0].tar.path
    rewind(corpus, manifest.model_copy(update={"shards": [], "features": {}}))
    notice = "removing/dead.json"
    corpus.create(notice, canonical_json({"paths": [wanted]}))
    sharded = manifest.model_copy(update={"features": {}})
    with pytest.raises(ConflictError, match="garbage was collected while this was built"):
        publish(corpus, sharded)
    grow_old(corpus, 1.1 * LEASE_S / DAY_S, notice)
    publish(corpus, sharded)
    assert load_manifest(corpus) == sharded
    assert corpus.list("publishing") == []
    collect(corpus, KeepPolicy())
    assert corpus.list("removing") == []


def publish(storage, manifest):
    publish_manifest(storage, manifest, load_manifest(storage))


def rewind(storage: Storage, manifest: Manifest) -> None:
    """Put another manifest in force, as if no later stage had run."""
    storage.write_scratch(manifest.path, [manifest.to_bytes()])
    pointer = Pointer(manifest=manifest.path, sha256=manifest.digest)
    storage.write_scratch(POINTER_PATH, [canonical_json(pointer.model_dump(mode="json"))])


class InterruptedStorage(LocalStorage):
    """Storage in which something else happens before one of the operations, each of which is counted."""

    def __init__(self, root, place, interrupt):
        super().__init__(root)
        self.num_operations = 0
        self._place = place
        self._interrupt = interrupt

    def local_path(self, path):
        if self.num_operations == self._place:
            self.num_operations += 1
            self._interrupt()
        self.num_operations += 1
        return super().local_path(path)


@pytest.fixture(scope="module")
def tempting(tmp_path_factory):
    """A corpus whose shards are written and committed, but listed by no manifest; and its recipe."""
    folder = tmp_path_factory.mktemp("tempting")
    (folder / "media").mkdir()
    rows = [picture_row(f"{number}.png", number) for number in range(2)]
    for number, row in enumerate(rows):
        (folder / "media" / row["image"]).write_bytes(encode(draw(number, 9, 9), "PNG"))
    rows.append({"id": "text", "conversations": talk("Say it.", "It!")})
    (folder / "a.json").write_text(json.dumps(rows))
    source = {
        "name": "s",
        "format": "llava",
        "annotations": str(folder / "a.json"),
        "media_root": str(folder / "media"),
    }
    recipe = build({"name": "two", "sources": [source]}, Recipe, "two")
    storage = LocalStorage(folder / "corpus")
    ingested = ingest(recipe, storage, SerialEngine()).manifest
    sharded = shard(recipe, storage, SerialEngine())
    rewind(storage, ingested)
    storage.remove(sharded.path)
    return recipe, storage, sharded


@pytest.mark.parametrize("first", ["build", "collector"])
def test_neither_ruins_the_work_of_the_other(tempting, tmp_path, first):
    recipe, template, sharded = tempting
    ends: set[str] = set()
    for place in range(10_000):
        storage = LocalStorage(tmp_path / f"{place}")
        shutil.copytree(template.url, storage.url)
        told: list[bool] = []

        def run_build(storage: Storage = storage, told: list[bool] = told) -> None:
            try:
                shard(recipe, storage, SerialEngine())
            except (ConflictError, NotFoundError):
                told.append(True)

        def run_collector(storage: Storage = storage) -> None:
            collect(storage, EVERYTHING)

        one, other = (run_build, run_collector) if first == "build" else (run_collector, run_build)
        interrupted = InterruptedStorage(Path(storage.url), place, other)
        one(interrupted)
        if interrupted.num_operations <= place:
            break
        assert is_sound(storage)
        assert (load_manifest(storage) == sharded) is not bool(told)
        ends.add("told" if told else "published")
        assert shard(recipe, storage, SerialEngine()) == sharded
        assert is_sound(storage)
        assert storage.list("publishing") == storage.list("removing") == []
    assert place > 15
    assert ends == {"told", "published"}


def test_on_s3_it_is_the_same(tempting, s3_url):
    recipe, template, sharded = tempting
    storage = open_storage(s3_url)
    for path, data in read_objects(template.url).items():
        storage.put(path, io.BytesIO(data))
    assert collect(storage, KeepPolicy()).removed == ()
    assert shard(recipe, storage, SerialEngine()) == sharded
    assert is_sound(storage)
    garbage = put_object(storage, "shards", "image-0", "tar", b"x", 1).path
    collected = removed_paths(collect(storage, EVERYTHING))
    assert collected >= {garbage}
    assert collected.isdisjoint(listed_paths(sharded))
    assert not storage.exists(garbage)
    assert is_sound(storage)
    assert load_manifest(storage) == sharded
