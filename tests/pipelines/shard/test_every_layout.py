"""Every published layout, from its files to the members of sample shards; two processes make them, too."""

import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from few_media import make_media, make_picture, talk, write_media
from watched_storage import read_objects

from infra.storage import LocalStorage
from infra.tar import scan_tar
from pipelines.engine import SerialEngine
from pipelines.ingest.flow import ingest
from pipelines.process_engine import ProcessesEngine
from pipelines.shard.flow import shard
from schemas.configuration import build
from schemas.recipe import Recipe

MEDIA = make_media()
A, B, SUB, CLIP, OTHER = (MEDIA[name] for name in ("a.jpg", "b.png", "sub/a.jpg", "v_0.mp4", "v_1.mp4"))
FIRST, SECOND = make_picture(90, "PNG"), make_picture(91, "TIFF")
PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
TURNS = pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())]))
SHOWN, ANSWERED = "<image>\nWhat?", "This."


def messages(*texts, **fields):
    turns = talk(*texts, names=("user", "assistant"), fields=("role", "content"))
    return {"messages": turns, **fields}


def lined(rows):
    return "".join(f"{json.dumps(row)}\n" for row in rows).encode()


def embedded(rows, picture):
    columns = {"id": pa.string(), "image": picture, "conversations": TURNS, "data_source": pa.string()}
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, pa.schema(columns)), file, row_group_size=2)
    return file.getvalue()


def bytes_of(data):
    return {"bytes": data, "path": None}


LLAVA = [
    {"id": "000000033471", "image": "sub/a.jpg", "conversations": talk(SHOWN, ANSWERED, "Else?", "No.")},
    {"id": 7, "image": "a.jpg", "conversations": talk("What?\n<image>", ANSWERED)},
    {"id": "wgByO4Y_0", "model": "", "conversations": talk("Say hello.", "Hello.")},
]
SAID = [([SUB], [SHOWN, ANSWERED, "Else?", "No."]), ([A], ["What?\n<image>", ANSWERED])]
SAID_ALL = [*SAID, ([], ["Say hello.", "Hello."])]
SHARE_GPT4V = [{"id": "1", "image": "b.png", "conversations": talk(SHOWN, "A plain.\n\nIt is.")}]
CONVERTED = [
    {"id": "v_0", "video": "v_0.mp4", "conversations": talk("<image>\nWhen?", "Now.")},
    {"id": "v_0", "video": "v_0.pkl", "conversations": talk("Who?\n<video>", "He.")},
]
SEVERAL = [
    {"id": 1, "image": ["a.jpg", "b.png"], "conversations": talk("<image><image>Same?", "No.")},
    {"id": 2, "image": ["b.png", "a.jpg"], "conversations": talk("<image> or <image>?", "Or.")},
    {"id": 3, "images": ["a.jpg"] * 3, "conversations": talk("<image><image><image>", "Three.")},
    {"id": 4, "image": "a.jpg", "video": "v_1.mp4", "conversations": talk("<video>then<image>", "Both.")},
    {"id": 5, "image": ["a.jpg"], "conversations": talk(SHOWN, "One.")},
]
SHARE_GPT = [
    messages("<image>Who?", "She.", images=["a.jpg"]),
    messages("<video>Where?", "Here.", videos=["v_0.mp4"]),
    messages("<image>and<image>?", "Yes.", images=["a.jpg", "sub/a.jpg"]),
    messages("Only words?", "Yes."),
    {"conversations": talk("<image>Or so?", "So."), "images": ["b.png"], "videos": []},
]
RAW = [
    {"q": "What?", "a": "A clip.", "video_id": "v_0"},
    {"q": "And this?", "a": "Too.\nQA_GT_caption_based_noisy", "video_id": "v_1"},
]
ONE_VISION = [
    {
        "id": "a/b.png",
        "image": bytes_of(FIRST),
        "conversations": talk(SHOWN, ANSWERED),
        "data_source": "s",
    },
    {"id": "text", "image": None, "conversations": talk("Words?", "Words."), "data_source": "magpie_pro"},
    {"id": "c", "image": bytes_of(A), "conversations": talk(SHOWN, "Embedded."), "data_source": "s"},
]
LISTED = [
    {
        "id": "1",
        "image": [bytes_of(FIRST), bytes_of(SECOND)],
        "conversations": talk("<image><image>", "2"),
    },
    {"id": "2", "image": [], "conversations": talk("None?", "None.")},
    {"id": "3", "image": [bytes_of(SECOND)], "conversations": talk(SHOWN, "One.")},
]
EVERY = {
    "list": ("llava", "mix.json", json.dumps(LLAVA).encode(), SAID_ALL),
    "lines": ("llava", "mix.jsonl", lined(LLAVA), SAID_ALL),
    "packed": ("llava", "mix.json.gz", gzip.compress(json.dumps(LLAVA, indent=2).encode()), SAID_ALL),
    "share-gpt4v": (
        "llava",
        "sharegpt4v_instruct.json",
        json.dumps(SHARE_GPT4V).encode(),
        [([B], [SHOWN, "A plain.\n\nIt is."])],
    ),
    "converted": (
        "llava",
        "videos.json",
        json.dumps(CONVERTED).encode(),
        [([CLIP], ["<video>\nWhen?", "Now."]), ([CLIP], ["Who?\n<video>", "He."])],
    ),
    "several": (
        "llava",
        "several.json",
        json.dumps(SEVERAL).encode(),
        [
            ([A, B], ["<image><image>Same?", "No."]),
            ([B, A], ["<image> or <image>?", "Or."]),
            ([A, A, A], ["<image><image><image>", "Three."]),
            ([OTHER, A], ["<video>then<image>", "Both."]),
            ([A], [SHOWN, "One."]),
        ],
    ),
    "share-gpt": (
        "sharegpt",
        "demo.json",
        json.dumps(SHARE_GPT).encode(),
        [
            ([A], ["<image>Who?", "She."]),
            ([CLIP], ["<video>Where?", "Here."]),
            ([A, SUB], ["<image>and<image>?", "Yes."]),
            ([], ["Only words?", "Yes."]),
            ([B], ["<image>Or so?", "So."]),
        ],
    ),
    "raw": (
        "video_chatgpt",
        "VideoInstruct100K.json",
        json.dumps(RAW).encode(),
        [([CLIP], ["<video>\nWhat?", "A clip."]), ([OTHER], ["<video>\nAnd this?", "Too."])],
    ),
    "one-vision": (
        "onevision",
        "train-00000-of-00001.parquet",
        embedded(ONE_VISION, PICTURE),
        [([FIRST], [SHOWN, ANSWERED]), ([], ["Words?", "Words."]), ([A], [SHOWN, "Embedded."])],
    ),
    "next": (
        "llava_next",
        "train-00000-of-00001.parquet",
        embedded(LISTED, pa.list_(PICTURE)),
        [
            ([FIRST, SECOND], ["<image><image>", "2"]),
            ([], ["None?", "None."]),
            ([SECOND], [SHOWN, "One."]),
        ],
    ),
}
"""By source: the format, a file, and what it says about which media, in the order of the rows."""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """All layouts as sources of one corpus."""
    folder = tmp_path_factory.mktemp("inputs")
    write_media(folder / "media")
    sources = []
    for name, (layout, file, data, _) in EVERY.items():
        (folder / name).mkdir()
        (folder / name / file).write_bytes(data)
        source = {"name": name, "format": layout, "annotations": str(folder / name / file)}
        is_embedded = layout in ("onevision", "llava_next")
        sources.append(source if is_embedded else source | {"media_root": str(folder / "media")})
    values = {"name": "every", "sources": sources, "shards": {"max_bytes": "2KiB", "max_views": 20}}
    return build(values, Recipe, "every")


@pytest.fixture(scope="module")
def built(recipe, tmp_path_factory):
    """Storage and manifest of a corpus that nobody changes."""
    storage = LocalStorage(tmp_path_factory.mktemp("built") / "corpus")
    ingest(recipe, storage, SerialEngine())
    return storage, shard(recipe, storage, SerialEngine())


def read_items(storage, manifest):
    """Each item of all shards: its JSON, and its media by name of the member."""
    items = {}
    for entry in manifest.shards:
        data = storage.read_bytes(entry.tar.path)
        for member in scan_tar(io.BytesIO(data)):
            key, _, rest = member.name.partition(".")
            items.setdefault(key, {})[rest] = data[member.offset : member.offset + member.size]
    return items


@pytest.mark.parametrize("name", EVERY)
def test_a_layout_comes_out_as_it_was_written(built, name):
    storage, manifest = built
    found = []
    for members in read_items(storage, manifest).values():
        item = json.loads(members.pop("json"))
        extensions = [medium["extension"] for medium in item["media"]]
        assert [*members] == [f"{place}.{extension}" for place, extension in enumerate(extensions)]
        for example in item["examples"]:
            if example["source"] == name:
                roles = [turn["from"] for turn in example["conversations"]]
                assert roles == ["human", "gpt"] * (len(roles) // 2)
                found.append(([*members.values()], [turn["value"] for turn in example["conversations"]]))
    assert sorted(found) == sorted(EVERY[name][3])
    (totals,) = [source for source in manifest.sources if source.name == name]
    assert (totals.read, totals.written) == (len(found), len(found))


def test_what_is_said_about_the_same_media_is_one_item(built):
    storage, manifest = built
    items = read_items(storage, manifest)
    media = [tuple(members[name] for name in members if name != "json") for members in items.values()]
    assert len(set(media) - {()}) == len([one for one in media if one])
    about_a = next(json.loads(members["json"]) for members in items.values() if members.get("0.jpg") == A)
    assert {"list", "lines", "packed", "share-gpt", "one-vision"} <= {
        example["source"] for example in about_a["examples"]
    }


def test_two_processes_make_the_same_bytes(recipe, built, tmp_path):
    there = LocalStorage(tmp_path / "there")
    with ProcessesEngine(2) as engine:
        ingest(recipe, there, engine)
        shard(recipe, there, engine)
    assert read_objects(there.url) == read_objects(built[0].url)
    assert len(built[1].shards) > 4
