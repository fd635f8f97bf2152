"""What a build does again: nothing when nothing changed, and else the leaves that a change falls into."""

import json

import pytest
from encodable_inputs import SECRET, draw, encode, make_recipe, picture_row, write_inputs
from watched_storage import WatchedStorage

from operators.clip import VisionEncoder
from pipelines.engine import SerialEngine
from pipelines.featurize.flow import featurize
from pipelines.ingest.flow import ingest
from pipelines.ingest.media.reader import MediaReader
from pipelines.shard.flow import shard
from schemas.digest import sha256_hex
from schemas.medium import KEY_BITS, KEY_DIGITS

NUM_PICTURES = 40
VIEWS_PER_PICTURE = 5


class Counts:
    """What builds did: media probed, media opened to be written, views encoded."""

    def __init__(self):
        self.num_probed, self.opened, self.num_views = 0, [], 0

    def clear(self):
        self.num_probed, self.num_views = 0, 0
        self.opened.clear()


@pytest.fixture
def counts(monkeypatch):
    found = Counts()
    read, encode_fixed = MediaReader.read, VisionEncoder.encode_fixed

    def count_read(self, source, location, kind):
        found.opened.append(location)
        return read(self, source, location, kind)

    def count_probed(*args):
        ingested = ingest(*args)
        found.num_probed += ingested.probed.num_read
        found.opened.clear()
        return ingested

    def count_views(self, pixels, batch_size):
        found.num_views += len(pixels)
        return encode_fixed(self, pixels, batch_size)

    monkeypatch.setattr(MediaReader, "read", count_read)
    monkeypatch.setattr(VisionEncoder, "encode_fixed", count_views)
    found.ingest = count_probed
    return found


@pytest.fixture
def folder(tmp_path):
    """Pictures enough for a tree of some depth."""
    folder = tmp_path / "inputs"
    write_inputs(folder)
    rows = json.loads((folder / "llava.json").read_text())
    for number in range(NUM_PICTURES):
        add_picture(folder, number)
        rows.append(picture_row(f"more{number}.png", 1000 + number))
    (folder / "llava.json").write_text(json.dumps(rows))
    return folder


def add_picture(folder, number):
    data = encode(draw(500 + number, 60, 58), "PNG")
    (folder / f"media/more{number}.png").write_bytes(data)
    return sha256_hex(data)[:KEY_DIGITS]


@pytest.fixture
def storage(tmp_path):
    return WatchedStorage(tmp_path / "corpus")


def build_corpus(folder, storage, ingest=ingest):
    recipe = make_recipe(folder)
    ingest(recipe, storage, SerialEngine())
    shard(recipe, storage, SerialEngine())
    digest, manifest = featurize(recipe, storage, SerialEngine())
    return manifest, manifest.features[digest]


def made_again(before, after):
    """Names of the shards that were not there before, bytewise."""
    old = {entry.tar.path for entry in before}
    return {entry.name for entry in after if entry.tar.path not in old}


def leaves_of(manifest, keys):
    """Names of the leaves that pictures fall into."""
    bits = [f"{int(key, 16):0{KEY_BITS}b}" for key in keys]
    pictures = [leaf for leaf in manifest.plan if leaf.modality.value == "image"]
    found = {leaf.name for leaf in pictures if any(one.startswith(leaf.prefix) for one in bits)}
    assert 0 < len(found) < len(pictures) - 3
    return found


def test_nothing_changed_and_nothing_is_read(folder, storage, counts):
    first = build_corpus(folder, storage, counts.ingest)
    assert counts.num_probed == len(counts.opened) > NUM_PICTURES
    assert counts.num_views > VIEWS_PER_PICTURE * NUM_PICTURES
    counts.clear()
    storage.paths_read.clear()
    assert build_corpus(folder, storage, counts.ingest) == first
    assert (counts.num_probed, counts.opened, counts.num_views) == (0, [], 0)
    assert not [path for path in storage.paths_read if path.endswith((".tar", ".idx"))]


def test_planning_again_reads_no_table(folder, storage):
    first, _ = build_corpus(folder, storage)
    storage.paths_read.clear()
    recipe = make_recipe(folder)
    assert shard(recipe, storage, SerialEngine()) == first
    assert featurize(recipe, storage, SerialEngine())[1] == first
    assert storage.paths_read
    assert all(path == "corpus.json" or path.startswith("manifests/") for path in storage.paths_read)


@pytest.mark.parametrize("num_new", [1, 3])
def test_new_media_cost_the_leaves_that_they_fall_into(folder, storage, counts, num_new):
    before, features_before = build_corpus(folder, storage)
    rows = json.loads((folder / "llava.json").read_text())
    keys = [add_picture(folder, number) for number in range(NUM_PICTURES, NUM_PICTURES + num_new)]
    names = [f"more{number}.png" for number in range(NUM_PICTURES, NUM_PICTURES + num_new)]
    rows += [picture_row(name, 2000 + number) for number, name in enumerate(names)]
    (folder / "llava.json").write_text(json.dumps(rows))
    counts.clear()
    after, features = build_corpus(folder, storage, counts.ingest)
    touched = leaves_of(after, keys)
    split = {leaf.name for leaf in after.plan} - {leaf.name for leaf in before.plan}
    assert made_again(before.shards, after.shards) == touched | split
    assert made_again(features_before.shards, features.shards) == touched | split
    items = {leaf.name: leaf.num_items for leaf in after.plan}
    num_items = sum(items[name] for name in touched | split)
    assert counts.num_views == VIEWS_PER_PICTURE * num_new < VIEWS_PER_PICTURE * num_items
    assert counts.num_probed == num_new
    assert len(counts.opened) == num_items
    assert set(names) <= set(counts.opened)


def test_a_changed_conversation_costs_examples_and_a_sample_shard(folder, storage, counts):
    before, features_before = build_corpus(folder, storage)
    text = (folder / "llava.json").read_text()
    (folder / "llava.json").write_text(text.replace(f"{SECRET} 1007?", "And this?"))
    counts.clear()
    after, features = build_corpus(folder, storage, counts.ingest)
    key = sha256_hex((folder / "media/more7.png").read_bytes())[:KEY_DIGITS]
    assert made_again(before.shards, after.shards) == leaves_of(after, [key])
    assert features == features_before
    assert (counts.num_probed, counts.num_views) == (0, 0)
    assert after.examples != before.examples
    assert after.media == before.media
    (name,) = leaves_of(after, [key])
    assert len(counts.opened) == next(leaf.num_items for leaf in after.plan if leaf.name == name)


def test_only_the_example_file_of_the_item_changes(folder, storage, monkeypatch):
    monkeypatch.setattr("pipelines.ingest.tables.ROWS_PER_FILE", 10)
    before, _ = build_corpus(folder, storage)
    text = (folder / "llava.json").read_text()
    (folder / "llava.json").write_text(text.replace(f"{SECRET} 1007?", "And this?"))
    after, _ = build_corpus(folder, storage)
    assert len(before.examples) == len(after.examples) >= 4
    assert len([entry for entry in after.examples if entry not in before.examples]) == 1
    assert after.media == before.media


def test_how_tables_are_cut_plays_no_part(folder, storage, monkeypatch, counts):
    """A corpus that grew has more files of tables; its leaves are the same as ever."""
    before, features_before = build_corpus(folder, storage)
    monkeypatch.setattr("pipelines.ingest.tables.ROWS_PER_FILE", 10)
    counts.clear()
    after, features = build_corpus(folder, storage, counts.ingest)
    assert len(after.examples) > len(before.examples)
    assert after.shards == before.shards
    assert features == features_before
    assert (counts.num_probed, counts.opened, counts.num_views) == (0, [], 0)
