"""Rows of every layout, mutated at random: each is written once, or rejected once and kept whole.

And files whose bytes were mutated: refused as a whole, or read so that the same holds of what they are now.
"""

import gzip
import json
import math
from collections import Counter
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from few_media import make_picture, talk, write_media
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.storage import LocalStorage
from pipelines.engine import SerialEngine
from pipelines.ingest.flow import find_manifest, ingest
from pipelines.ingest.rows.ranges import plan_ranges
from pipelines.ingest.tables import read_examples, read_quarantine
from schemas.configuration import build
from schemas.digest import canonical_json
from schemas.errors import CorruptError
from schemas.recipe import Recipe


def messages(*texts):
    return talk(*texts, names=("user", "assistant"), fields=("role", "content"))


SOUND = {
    "llava": [
        {"id": 1, "image": "a.jpg", "conversations": talk("<image>q", "a", "q", "a")},
        {"id": "x", "image": ["a.jpg", "b.png"], "conversations": talk("<image><image>", "a")},
        {"id": "v", "video": "v_0.mp4", "conversations": talk("<video>", "a")},
        {"id": "t", "model": "", "conversations": talk("q", "a")},
    ],
    "sharegpt": [
        {"messages": messages("<image>q", "a"), "images": ["a.jpg"]},
        {"messages": messages("<video>q", "a"), "videos": ["v_0.mp4"], "system": ""},
        {"conversations": talk("q", "a"), "images": []},
    ],
    "video_chatgpt": [{"q": "q", "a": "a", "video_id": "v_0"}, {"q": "q", "a": "b", "video_id": "v_1"}],
}
SPELLINGS = ["list", "lines", "packed"]
PATHS = [
    "a.jpg",
    "b.png",
    "gone.jpg",
    "../a.jpg",
    "/a.jpg",
    "cut.jpg",
    "empty.jpg",
    "sub",
    "v_0.mp4",
    "v_0",
    "",
]
WORDS = [
    "q",
    "",
    " ",
    "<image>",
    "<video>",
    "<image><image>",
    "a <image> b",
    "human",
    "gpt",
    "user",
    "system",
]
VALUES = [None, True, 0, -1, 2**70, 1.5, 1e400, math.nan, "", "\ud800", "\0", [], {}, [[]], [None], {"a": 1}]
values = st.sampled_from([*PATHS, *WORDS, *VALUES]) | st.lists(st.sampled_from([*PATHS, *VALUES]), max_size=3)
changes = st.lists(
    st.tuples(st.integers(0, 99), values, st.sampled_from(["set", "remove", "add"])), max_size=3
)
SOUND["llava_yaml"] = SOUND["llava"]
textual = {name: st.tuples(st.sampled_from(rows), changes) for name, rows in SOUND.items()}


def spell(spelling, raws):
    """Rows as the bytes of a file."""
    text = b"\n".join(raws) if spelling == "lines" else b"[" + b", ".join(raws) + b"]"
    return gzip.compress(text) if spelling == "packed" else text


def list_places(value):
    """Every place inside of a value, as the list or object that it is in and its key there."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from list_places(value[key])


def mutate(row, changes):
    """A copy of a row in which some places were changed, removed, or got a neighbor."""
    row = json.loads(json.dumps(row))
    for number, value, how in changes:
        found = list(list_places(row))
        holder, key = found[number % len(found)] if found else (row, "id")
        if how == "remove" and found:
            del holder[key]
        elif how == "add" and isinstance(holder, list):
            holder.insert(key, value)
        elif how == "add":
            holder[f"{key}s"] = value
        else:
            holder[key] = value
    return row


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    return write_media(tmp_path_factory.mktemp("media"))


def write_source(folder, layout, text, media):
    """A recipe over one file that holds a text."""
    (folder / "rows.json").write_bytes(text)
    listed = {"datasets": [{"json_path": str(folder / "rows.json"), "sampling_strategy": "all"}]}
    (folder / "list.yaml").write_text(json.dumps(listed))
    annotations = folder / ("list.yaml" if layout == "llava_yaml" else "rows.json")
    source = {"name": "s", "format": layout, "annotations": str(annotations), "media_root": str(media)}
    return build({"name": "m", "sources": [source]}, Recipe, "m")


def set_source(recipe, **fields):
    """The recipe with its one source changed."""
    return recipe.model_copy(update={"sources": [recipe.sources[0].model_copy(update=fields)]})


def check(recipe, folder, raws):
    """Ingest, and hold what came out against the rows; the rejects by code."""
    storage = LocalStorage(folder / "corpus")
    rejects, counts = balance(storage, ingest(recipe, storage, SerialEngine()).manifest)
    assert counts.total() == len(raws)
    for reject in rejects:
        assert reject.raw == raws[reject.locator.row]
    return counts


def balance(storage, manifest):
    """See that each row was written or rejected; the rejects, and how many rows became what."""
    (totals,) = manifest.sources
    examples = [row for entry in manifest.examples for row in read_examples(storage, entry)]
    rejects = [row for entry in manifest.quarantine for row in read_quarantine(storage, entry)]
    assert totals.read == totals.written + totals.rejected
    assert (totals.written, totals.rejected) == (len(examples), len(rejects))
    assert Counter(reject.code for reject in rejects) == totals.rejects
    rows = [row.record_row for row in examples] + [reject.locator.row for reject in rejects]
    assert sorted(rows) == list(range(totals.read))
    return rejects, Counter(totals.rejects) + Counter(written=totals.written)


@pytest.mark.parametrize("layout", SOUND)
def test_read_is_written_plus_rejected_in_every_layout_of_text(layout, media, tmp_path_factory, monkeypatch):
    seen = Counter()

    @settings(max_examples=15 if layout == "llava_yaml" else 25, deadline=None)
    @given(
        rows=st.lists(textual[layout], min_size=1, max_size=15),
        range_bytes=st.sampled_from([1 << 25, 1]),
        spelling=st.sampled_from(SPELLINGS),
        deduplicate=st.booleans(),
    )
    def check_rows(rows, range_bytes, spelling, deduplicate):
        in_ranges = partial(plan_ranges, range_bytes=range_bytes)
        monkeypatch.setattr("pipelines.ingest.inputs.plan_ranges", in_ranges)
        folder = tmp_path_factory.mktemp("mutated")
        raws = [json.dumps(mutate(*row)).encode() for row in rows]
        recipe = write_source(folder, layout, spell(spelling, raws), media)
        seen.update(check(set_source(recipe, deduplicate=deduplicate), folder, raws))

    check_rows()
    assert seen["written"]
    assert len(seen) > 3


FRAGMENTS = [
    b"",
    b'"',
    b"[",
    b"]",
    b"{",
    b"}",
    b",",
    b"\n",
    b"\\",
    b"\xff",
    b"\0",
    b"NaN",
    b'"id": 1, ',
    b"}, {",
]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), range_bytes=st.sampled_from([1 << 25, 1]), spelling=st.sampled_from(SPELLINGS))
def splice(check_text, data, range_bytes, spelling):
    """Put something else in the place of a few bytes of a file."""
    rows = data.draw(st.lists(st.sampled_from(SOUND["llava"]), min_size=1, max_size=6))
    text = spell(spelling, [json.dumps(row).encode() for row in rows])
    start = data.draw(st.integers(0, len(text)))
    end = min(len(text), start + data.draw(st.integers(0, 40)))
    copied = st.integers(0, len(text)).map(lambda at: text[at : at + 60])
    piece = data.draw(st.sampled_from(FRAGMENTS) | st.binary(max_size=6) | copied)
    check_text(text[:start] + piece + text[end:], range_bytes, spelling)


def test_spliced_bytes_are_refused_or_read_is_written_plus_rejected(media, tmp_path_factory, monkeypatch):
    seen = Counter()

    def check_text(text, range_bytes, spelling):
        in_ranges = partial(plan_ranges, range_bytes=range_bytes)
        monkeypatch.setattr("pipelines.ingest.inputs.plan_ranges", in_ranges)
        folder = tmp_path_factory.mktemp("spliced")
        recipe, storage = write_source(folder, "llava", text, media), LocalStorage(folder / "corpus")
        try:
            manifest = ingest(recipe, storage, SerialEngine()).manifest
        except CorruptError:
            assert find_manifest(storage) is None
            seen.update(refused=1)
            return
        rejects, counts = balance(storage, manifest)
        seen.update(counts)
        plain = gzip.decompress(text) if spelling == "packed" else text
        assert all(reject.raw in plain for reject in rejects)
        if spelling == "lines" and plain.lstrip()[:1] == b"{":
            lines = [line.strip(b" \t\r\n") for line in plain.split(b"\n")]
            raws = list(filter(None, lines))
            assert counts.total() == len(raws)
            assert all(reject.raw == raws[reject.locator.row] for reject in rejects)

    splice(check_text)
    assert seen["written"]
    assert seen["refused"]
    assert seen.keys() - {"written", "refused"}


TURNS = pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())]))
PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
turns = st.builds(
    lambda role, text: {"from": role, "value": text},
    st.sampled_from(["human", "gpt", "system", None]),
    st.sampled_from(["<image>", "q", "", None, "<image>q"]),
)
sound = st.sampled_from([talk("<image>q", "a"), talk("q", "a"), talk("<image>q", "a", "q", "a")])
pictures = st.builds(
    lambda data, path: {"bytes": data, "path": path},
    st.sampled_from([make_picture(1), make_picture(2, "PNG"), b"", None, b"GIF", make_picture(3)[:-5]]),
    st.sampled_from([None, "a.jpg"]),
)
columns = st.fixed_dictionaries(
    {
        "id": st.sampled_from(["1", "ü", None]),
        "conversations": sound | sound | st.lists(turns | st.none(), max_size=3) | st.none(),
    }
)


def drop_bytes(image):
    """What quarantine keeps of the pictures of a row: where they are from, and how many."""
    if isinstance(image, list):
        return list(map(drop_bytes, image))
    return image and {"path": image["path"]}


@pytest.mark.parametrize("several", [False, True])
def test_read_is_written_plus_rejected_with_pictures_in_the_rows(several, tmp_path_factory):
    images = st.none() | st.lists(pictures | st.none(), max_size=3) if several else st.none() | pictures
    kind = pa.list_(PICTURE) if several else PICTURE
    seen = Counter()

    @settings(max_examples=25, deadline=None)
    @given(
        rows=st.lists(st.tuples(columns, images), min_size=1, max_size=15),
        group_rows=st.sampled_from([1, 4, 100]),
        deduplicate=st.booleans(),
    )
    def check_rows(rows, group_rows, deduplicate):
        folder = tmp_path_factory.mktemp("mutated")
        kinds = {"id": pa.string(), "conversations": TURNS, "image": kind}
        table = pa.Table.from_pylist([row | {"image": image} for row, image in rows], pa.schema(kinds))
        pq.write_table(table, folder / "rows.parquet", row_group_size=group_rows)
        raws = [canonical_json(row | {"image": drop_bytes(image)}) for row, image in rows]
        source = {"name": "s", "format": "onevision", "annotations": str(folder / "rows.parquet")}
        source |= {"deduplicate": deduplicate}
        recipe = build({"name": "m", "sources": [source]}, Recipe, "m")
        seen.update(check(recipe, folder, raws))

    check_rows()
    assert seen["written"]
    assert len(seen) > 3
