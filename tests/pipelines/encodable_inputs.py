"""Inputs that are encoded in a second: pictures of every format, a clip, texts, and a tiny CLIP tower."""

import io
import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.utils import logging as transformers_logging

from schemas.configuration import build
from schemas.recipe import Recipe

SIZE_PX = 56
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": SIZE_PX,
    "patch_size": 14,
}
FPS = 2
NUM_CLIP_FRAMES = 5
SECRET = "zebra"
"""Stands in every conversation, and in no feature shard."""
ORIENTATION_TAG = 0x0112


def write_inputs(folder: Path) -> None:
    """Media, annotations and the encoder, in the layouts that a recipe names."""
    media = folder / "media"
    media.mkdir(parents=True)
    for name, data in make_pictures().items():
        (media / name).write_bytes(data)
    (media / "v_clip.mp4").write_bytes(make_clip())
    rows: list[dict[str, Any]] = [
        picture_row(name, number) for number, name in enumerate([*make_pictures(), *make_pictures()])
    ]
    rows += [{"id": "text", "conversations": talk(f"Say {SECRET}.", f"{SECRET}!")}]
    (folder / "llava.json").write_text(json.dumps(rows))
    question = {"q": f"{SECRET}?", "a": f"{SECRET}.", "video_id": "v_clip"}
    (folder / "qa.json").write_text(json.dumps([question]))
    write_encoder(folder / "encoder", seed=0)


def write_encoder(folder: Path, seed: int) -> None:
    """A random tower at 56/14: 16 patches of 32 channels."""
    transformers_logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tower = CLIPVisionModel(CLIPVisionConfig(**TOWER))
    tower.save_pretrained(folder)
    size = {"height": SIZE_PX, "width": SIZE_PX}
    CLIPImageProcessorPil(size={"shortest_edge": SIZE_PX}, crop_size=size).save_pretrained(folder)


def make_recipe(folder: Path, *, encoder_name: str = "encoder", **changes: Any) -> Recipe:
    """The recipe over these inputs, with absolute paths."""
    return build(recipe_values(folder, encoder_name) | changes, Recipe, "tiny")


def recipe_values(folder: Path, encoder_name: str = "encoder") -> dict[str, Any]:
    """What stands in the recipe's YAML."""
    root = str(folder / "media")
    return {
        "name": "tiny",
        "sources": [
            {
                "name": "pictures",
                "format": "llava",
                "annotations": str(folder / "llava.json"),
                "media_root": root,
            },
            {
                "name": "clips",
                "format": "video_chatgpt",
                "annotations": str(folder / "qa.json"),
                "media_root": root,
            },
        ],
        "encoder": {"model": str(folder / encoder_name), "dtype": "float32", "batch_size": 4},
        "codec": "fp16",
        "shards": {"max_views": 20},
    }


def talk(question: str, answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def picture_row(name: str, number: int) -> dict[str, Any]:
    return {"id": number, "image": name, "conversations": talk(f"<image>\n{SECRET} {number}?", SECRET)}


def draw(seed: int, width: int, height: int, mode: str = "RGB") -> Image.Image:
    """A picture in which no two places look the same."""
    channels = len(mode)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(pixels if channels > 1 else pixels[..., 0], mode=None)


def make_pictures() -> dict[str, bytes]:
    """Wide, tall, square, odd, turned, transparent; every format that is decoded."""
    turned = Image.Exif()
    turned[ORIENTATION_TAG] = 6
    return {
        "wide.jpg": encode(draw(1, 90, 61), "JPEG"),
        "turned.jpg": encode(draw(2, 50, 80), "JPEG", exif=turned),
        "clear.png": encode(draw(3, 41, 70, "RGBA"), "PNG"),
        "grey.png": encode(draw(4, 33, 33, "L"), "PNG"),
        "square.webp": encode(draw(5, 64, 64), "WEBP"),
        "few.gif": encode(draw(6, 20, 30), "GIF"),
        "plain.bmp": encode(draw(7, 57, 31), "BMP"),
        "scan.tif": encode(draw(8, 25, 26), "TIFF"),
    }


def encode(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def make_clip(first_shade: int = 0) -> bytes:
    """2.5 s of moving stripes: three views at one a second."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream("mpeg4", rate=FPS)
        stream.width, stream.height = 64, 48
        stream.pix_fmt = "yuv420p"
        for index in range(NUM_CLIP_FRAMES):
            ramp = (np.arange(64) * (index + 2) + first_shade).astype(np.uint8)
            pixels = np.broadcast_to(ramp[None, :, None], (48, 64, 3)).copy()
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def make_broken_gif() -> bytes:
    """Header and end are right; the second half of the compressed pixels is not."""
    data = encode(draw(9, 30, 30), "GIF")
    half = len(data) // 2
    return data[:half] + b"\xff" * (len(data) - half - 2) + data[-2:]
