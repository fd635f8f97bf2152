"""Random annotation files in every layout, with every fault that a plain reader can tell."""

import gzip
import json
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from few_media import make_media, talk

PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
TURNS = pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())]))
SCHEMA = pa.schema({"id": pa.string(), "conversations": TURNS, "image": pa.list_(PICTURE)})
GOOD = ("a.jpg", "same.jpg", "b.png", "./b.png", "sub/a.jpg", "c.gif", "c.jpg", "d.jpg", "two.jpg")
FAULTY = ("gone.jpg", "../a.jpg", "two.png", "cut.jpg", "empty.jpg", "v_0.mp4", "")
NO_ROWS = ("7", '"text"', "[1]", "{}", '{"id": NaN}', '{"id": 1, "id": 2}', "nul")
ASKED = ("q", "q", "q", "ü?", "\u2028q\n", "<b>", " ")
ANSWERED = ("a", "a", "a", "b", "A \N{GRINNING FACE}", " ")

Row = dict[str, Any]


def pick_path(rng: Random) -> str:
    return rng.choice(GOOD if rng.random() < 0.8 else FAULTY)


def make_llava_row(rng: Random) -> Row:
    paths = [pick_path(rng) for _ in range(rng.choice((0, 1, 1, 1, 2, 2, 3)))]
    num_words = len(paths) if rng.random() < 0.7 else rng.randrange(3)
    row: Row = {"id": rng.choice((1, "1", "x", None, 1.5))}
    row["conversations"] = talk("<image>" * num_words + rng.choice(ASKED), rng.choice(ANSWERED))
    if rng.random() < 0.2:
        row["conversations"] += talk(rng.choice(ASKED), rng.choice(ANSWERED))
    if paths:
        row["image"] = paths[0] if len(paths) == 1 else paths
    if rng.random() < 0.2:
        row["video"] = rng.choice(("v_0.mkv", "v_1.mp4", "v_none.mp4"))
        row["conversations"][0]["value"] += "<video>"
    return row


def make_sharegpt_row(rng: Random) -> Row:
    paths = [pick_path(rng) for _ in range(rng.randrange(3))]
    said = ("<image>" * len(paths) + rng.choice(ASKED), rng.choice(ANSWERED))
    return {
        "messages": talk(*said, names=("user", "assistant"), fields=("role", "content")),
        "images": paths,
    }


def make_question(rng: Random) -> Row:
    clip = rng.choice(("v_0", "v_0", "v_1", "v_none"))
    return {"q": rng.choice(ASKED), "a": rng.choice(ANSWERED), "video_id": clip}


def make_embedded_row(rng: Random) -> Row:
    pictures = [data for name, data in make_pictures().items() if name in GOOD or rng.random() < 0.3]
    shown = [rng.choice(pictures) for _ in range(rng.choice((0, 1, 1, 2)))]
    said = ("<image>" * len(shown) + rng.choice(ASKED), rng.choice(ANSWERED))
    structs = [{"bytes": data, "path": None} for data in shown]
    return {"id": rng.choice(ASKED), "conversations": talk(*said), "image": structs or None}


MEDIA = make_media()


def make_pictures() -> dict[str, bytes]:
    return {name: data for name, data in MEDIA.items() if not name.startswith("v_")}


MAKE_ROW = {"llava": make_llava_row, "sharegpt": make_sharegpt_row, "video_chatgpt": make_question}
FORMS = ("list.json", "list.json.gz", "lines.jsonl")


def write_texts(path: Path, rows: list[str]) -> None:
    if path.suffix == ".jsonl":
        # A file of lines begins with an object, or it is none.
        path.write_text("".join(f"{row}\n" for row in ['{"first": 0}', *rows]))
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(f"[{','.join(rows)}]".encode(), mtime=0))
    else:
        path.write_text(f"[{', '.join(rows)}]")


def write_source(
    rng: Random, folder: Path, name: str, layout: str, media: Path
) -> tuple[Row, list[tuple[Path, str]]]:
    """Write the files of a source; its entry in the recipe, and paths and names of its files in order."""
    (folder / name).mkdir(parents=True)
    files: list[Path] = []
    for place in range(rng.choice((1, 2))):
        num_rows = rng.randrange(40)
        if layout == "onevision":
            path = folder / name / f"{place}.parquet"
            rows = [make_embedded_row(rng) for _ in range(num_rows)]
            pq.write_table(pa.Table.from_pylist(rows, SCHEMA), path, row_group_size=rng.choice((1, 3, 50)))
        else:
            path = folder / name / f"{place}-{rng.choice(FORMS)}"
            made = [json.dumps(MAKE_ROW[layout](rng), ensure_ascii=False) for _ in range(num_rows)]
            write_texts(path, [row if rng.random() < 0.95 else rng.choice(NO_ROWS) for row in made])
        files.append(path)
    entry: Row = {
        "name": name,
        "format": layout,
        "annotations": [str(path) for path in files],
        "take": rng.choice(("all", "all", "all", "first:5", "last:30%", "random:4", "random:50%")),
        "deduplicate": rng.random() < 0.5,
    }
    if layout != "onevision":
        entry["media_root"] = str(media)
    return entry, [(path, path.name) for path in files]
