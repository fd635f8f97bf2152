"""A corpus of a few files in every layout, with a fault of each kind; and an engine like a far machine."""

import io
import json
import pickle
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from build_commands import builds, program, race, recipe, run, undisturbed, whole
from PIL import Image

from pipelines.engine import SerialEngine
from schemas.configuration import build
from schemas.recipe import Recipe

__all__ = ["builds", "program", "race", "recipe", "run", "undisturbed", "whole"]
"""Fixtures."""


def encode_picture(shade: int, form: str = "JPEG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8 + shade % 5, 8), (shade, 255 - shade, 9)).save(file, form)
    return file.getvalue()


def encode_clip(shade: int, num_frames: int = 5, fps: int = 2) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream("mpeg4", rate=fps)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for index in range(num_frames):
            pixels = np.full((32, 32, 3), (shade + 40 * index) % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def talk(question: str, answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def _llava_rows() -> list[object]:
    rows: list[object] = [
        {"id": n, "image": f"pictures/{n % 6}.jpg", "conversations": talk(f"<image>\nQ{n}?", f"A{n}.")}
        for n in range(12)
    ]
    rows += [{"id": f"t{n}", "model": "", "conversations": talk(f"Say {n}.", f"{n}!")} for n in range(3)]
    rows += [rows[0], rows[0], rows[12]]
    rows += [
        {"id": "renamed", "image": "pictures/renamed.jpg", "conversations": talk("<image>\nQ?", "A")},
        {"id": "gif", "image": "pictures/gif.jpg", "conversations": talk("Q?", "A")},
        {"id": "gone", "image": "pictures/gone.jpg", "conversations": talk("<image>\nQ?", "A")},
        {"id": "cut", "image": "pictures/cut.jpg", "conversations": talk("<image>\nQ?", "A")},
        {"id": "up", "image": "../outside.jpg", "conversations": talk("<image>\nQ?", "A")},
        {"id": "clip", "image": "clips/v_0.mp4", "conversations": talk("<image>\nQ?", "A")},
        {"id": "mute", "image": "pictures/0.jpg", "conversations": talk("<image>\nQ?", "")},
        "no object",
    ]
    return rows


def _write_tiny(folder: Path) -> None:
    for name in ("pictures", "clips"):
        (folder / "media" / name).mkdir(parents=True)
    pictures = folder / "media/pictures"
    for shade in range(6):
        (pictures / f"{shade}.jpg").write_bytes(encode_picture(40 * shade))
    (pictures / "renamed.gif").write_bytes(encode_picture(7, "GIF"))
    (pictures / "gif.jpg").write_bytes(encode_picture(77, "GIF"))
    (pictures / "cut.jpg").write_bytes(encode_picture(3)[:-9])
    (folder / "outside.jpg").write_bytes(encode_picture(3))
    for shade in range(2):
        (folder / f"media/clips/v_{shade}.mp4").write_bytes(encode_clip(40 * shade))
    (folder / "media/clips/v_zero.mp4").write_bytes(b"")
    (folder / "llava.json").write_text(json.dumps(_llava_rows(), indent=1))
    questions = [
        {"q": f"Q{n}", "a": "A\nQA_GT_caption_based_noisy", "video_id": f"v_{n % 2}"} for n in range(4)
    ]
    questions.append({"q": "Q", "a": "A", "video_id": "v_zero"})
    (folder / "qa.json").write_text(json.dumps(questions))
    rows = [
        {"id": f"a/b.{n}", "image": {"bytes": encode_picture(n * 60, "PNG"), "path": None}} for n in range(3)
    ]
    rows += [
        {"id": "same", "image": {"bytes": encode_picture(0), "path": None}},
        {"id": "text", "image": None},
    ]
    talked = [row | {"conversations": talk("What?", f"{row['id']}."), "data_source": "s"} for row in rows]
    pq.write_table(pa.Table.from_pylist(talked), folder / "one.parquet", row_group_size=2)


TINY_RECIPE: dict[str, Any] = {
    "name": "tiny",
    "sources": [
        {"name": "mix", "format": "llava", "annotations": "llava.json", "media_root": "media"},
        {"name": "qa", "format": "video_chatgpt", "annotations": "qa.json", "media_root": "media/clips"},
        {"name": "one", "format": "onevision", "annotations": "one.parquet"},
    ],
    "shards": {"max_bytes": "1KiB", "max_views": 20},
}


@pytest.fixture(scope="session")
def _tiny_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    _write_tiny(folder)
    return folder


@pytest.fixture
def tiny_folder(_tiny_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny corpus' inputs, in the current folder."""
    folder = tmp_path / "inputs"
    shutil.copytree(_tiny_template, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def tiny_recipe(tiny_folder: Path) -> Recipe:
    """The recipe of the tiny corpus."""
    return build(TINY_RECIPE, Recipe, "tiny")


class FarEngine(SerialEngine):
    """Runs units last to first, each on a worker of its own, and lets nothing through but plain copies."""

    name = "far"

    def run(
        self, spec: Any, units: Sequence[Any], resources: Any = None, stage: str = ""
    ) -> Iterator[tuple[int, Any]]:
        for index in reversed(range(len(units))):
            work: Callable[[Any], Any] = pickle.loads(pickle.dumps(spec)).build()
            yield index, pickle.loads(pickle.dumps(work(pickle.loads(pickle.dumps(units[index])))))


@pytest.fixture
def far_engine() -> FarEngine:
    """An engine that shares nothing between units and finishes them in another order."""
    return FarEngine()
