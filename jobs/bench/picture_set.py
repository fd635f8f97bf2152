"""A set of pictures with one question about each, and the recipe that reads it: an input for whole builds."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from jobs.bench.sample_media import add_comment, make_jpeg
from schemas.configuration import build
from schemas.recipe import Recipe

WIDTH_PX, HEIGHT_PX = 640, 428
PICTURES_PER_FOLDER: Final = 1000


@dataclass(frozen=True, slots=True)
class PictureSet:
    """Where everything lies."""

    root: Path
    names: tuple[str, ...]
    num_bytes: int
    annotations: Path

    def recipe(self, max_bytes: int, encoder: Path | None = None) -> Recipe:
        """The recipe over the set."""
        values: dict[str, Any] = {
            "name": "pictures",
            "sources": [
                {
                    "name": "pictures",
                    "format": "llava",
                    "annotations": str(self.annotations),
                    "media_root": str(self.root),
                }
            ],
            "codec": "fp16",
            "shards": {"max_bytes": max_bytes, "max_views": 1_000_000},
        }
        if encoder:
            values["encoder"] = {"model": str(encoder), "dtype": "float32"}
        return build(values, Recipe, "pictures")


def write_picture_set(folder: Path, num_pictures: int) -> PictureSet:
    """Write so many pictures, all different, as alike as decoders can tell."""
    root = folder / "pictures"
    data = make_jpeg(WIDTH_PX, HEIGHT_PX)
    names: list[str] = []
    num_bytes = 0
    for number in range(num_pictures):
        name = f"{number // PICTURES_PER_FOLDER:03d}/{number:08d}.jpg"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        num_bytes += (root / name).write_bytes(add_comment(data, f"{number:08d}".encode()))
        names.append(name)
    annotations = folder / "pictures.json"
    annotations.write_text(json.dumps([_make_row(number, name) for number, name in enumerate(names)]))
    return PictureSet(root, tuple(names), num_bytes, annotations)


def _make_row(number: int, name: str) -> dict[str, object]:
    talk = [
        {"from": "human", "value": f"<image>\nWhat does picture {number} show?"},
        {"from": "gpt", "value": f"Smooth noise, and a comment that says {number}."},
    ]
    return {"id": number, "image": name, "conversations": talk}
