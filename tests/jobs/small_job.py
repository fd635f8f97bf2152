"""The command line called in process, and a job small enough to run all of it in seconds."""

import contextlib
import io
import json
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import yaml
from PIL import Image

from jobs.cli import main
from jobs.demo.encoder import write_demo_encoder
from jobs.demo.language_model import LanguageModelShape, save_language_model
from jobs.demo.tokenizer import BEGIN, END, PAD, train_tokenizer

COLORS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220)}
QUESTION = "Which color is it?"
TERMINATED_STATUS = 128 + signal.SIGTERM
NUM_STEPS = 4
CUT_AT = 2


@dataclass(frozen=True)
class Outcome:
    """How a command ended and what it said."""

    status: int
    out: str
    err: str = field(repr=False)

    @property
    def said(self) -> str:
        """What stands on stderr, in one line and without the frame that is drawn around usage errors."""
        return " ".join(self.err.replace("│", " ").split())

    @property
    def values(self) -> dict[str, Any]:
        """The one JSON object on stdout."""
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found


def run_onetoken(*arguments: object) -> Outcome:
    """Run one command; an exception that would end in a traceback passes through.

    A SIGTERM that comes meanwhile is meant for the tests: they end, where the command alone would have.
    """
    out, err = io.StringIO(), io.StringIO()
    status: object = None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as left:
            status = left.code
    assert isinstance(status, int)
    if status == TERMINATED_STATUS:
        pytest.exit(
            f"SIGTERM came from outside, during {arguments}: a limit of whoever runs the tests?", status
        )
    return Outcome(status, out.getvalue(), err.getvalue())


def talk(question: str, answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def write_picture(path: Path, color: str, width_px: int = 40) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width_px, 30), COLORS[color]).save(path)


def write_clip(path: Path, color: str, num_frames: int = 5) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4") as container:
        stream: Any = container.add_stream("mpeg4", rate=2)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for _ in range(num_frames):
            pixels = np.full((32, 32, 3), COLORS[color], np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def write_encoder(folder: Path, seed: int = 0) -> Path:
    write_demo_encoder(folder, seed=seed, width=16, num_layers=2)
    return folder


def write_llm(folder: Path, max_length: int = 4096) -> Path:
    texts = [QUESTION, *COLORS]
    vocabulary = train_tokenizer(texts, folder, vocabulary_size=300).get_vocab()
    save_language_model(
        folder,
        vocabulary_size=len(vocabulary),
        bos_id=vocabulary[BEGIN],
        eos_id=vocabulary[END],
        pad_id=vocabulary[PAD],
        shape=LanguageModelShape(width=32, mlp_width=64, max_length=max_length),
    )
    return folder


def write_yaml(path: Path, document: object) -> Path:
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return path


def write_sources(folder: Path) -> list[dict[str, object]]:
    """Six pictures and two clips, talked about; two records that are no good."""
    rows: list[object] = []
    for index, color in enumerate([*COLORS, *COLORS]):
        write_picture(folder / f"media/{index}.png", color, width_px=36 + index)
        rows.append(
            {"id": index, "image": f"{index}.png", "conversations": talk(f"<image>\n{QUESTION}", color)}
        )
    rows.append({"id": 6, "image": "6.png", "conversations": talk(f"<image>\n{QUESTION}", "red")})
    rows.append({"id": 7, "image": "0.png", "conversations": talk(f"<image>\n{QUESTION}", "")})
    (folder / "pictures.json").write_text(json.dumps(rows), encoding="utf-8")
    clips = []
    for name in ("red", "blue"):
        write_clip(folder / f"media/v_{name}.mp4", name)
        clips.append({"q": QUESTION, "a": name, "video_id": f"v_{name}"})
    (folder / "clips.json").write_text(json.dumps(clips), encoding="utf-8")
    return [
        {
            "name": "pictures",
            "format": "llava",
            "annotations": str(folder / "pictures.json"),
            "media_root": str(folder / "media"),
            "reject_budget": 0.5,
        },
        {
            "name": "clips",
            "format": "video_chatgpt",
            "annotations": str(folder / "clips.json"),
            "media_root": str(folder / "media"),
        },
    ]


@dataclass(frozen=True)
class SmallJob:
    """Inputs, models and configurations of a job below one folder."""

    folder: Path

    @property
    def recipe(self) -> Path:
        return self.folder / "recipe.yaml"

    @property
    def corpus(self) -> Path:
        return self.folder / "corpus"

    @property
    def encoder(self) -> Path:
        return self.folder / "encoder"

    def stage(self, number: int) -> Path:
        return self.folder / f"stage{number}.yaml"

    def out(self, number: int) -> Path:
        return self.folder / f"runs/stage{number}"


def write_job(folder: Path) -> SmallJob:
    """Everything that a user would have before the first command."""
    job = SmallJob(folder)
    recipe = {
        "name": "small",
        "sources": write_sources(folder),
        "encoder": {"model": str(write_encoder(job.encoder)), "dtype": "float32", "batch_size": 4},
        "shards": {"max_bytes": "1MiB", "max_views": 20},
    }
    write_yaml(job.recipe, recipe)
    llm = str(write_llm(folder / "llm"))
    for number in (1, 2):
        write_yaml(job.stage(number), training_document(job, number, llm))
    return job


def training_document(job: SmallJob, number: int, llm: str) -> dict[str, object]:
    model: dict[str, object] = {"llm": llm}
    data: dict[str, object] = {"batch": 2, "micro_batch": 2}
    if number == 1:
        data["sources"] = {"pictures": 1.0}
    else:
        model |= {"prefusion": {"layers": 1}, "start_from": str(job.out(1))}
    return {
        "corpus": str(job.corpus),
        "stage": number,
        "out": str(job.out(number)),
        "model": model,
        "data": data,
        "optimizer": {"lr": 1e-3},
        "run": {
            "steps": NUM_STEPS,
            "save_every": CUT_AT,
            "log_every": 1,
            "dtype": "float32",
            "device": "cpu",
            "threads": 1,
        },
    }
