"""How fast this machine is, in CPU seconds of one core: some seconds of the work that a build is made of.

CPU time, not wall time, so that other work beside it changes little. What is measured is this machine: a
cluster of other cores needs its own calibration. The encoder has random weights of the true shape; where
there is CUDA it is timed there, otherwise GPU time follows from FLOPs and the cluster's stated peak.
"""

import hashlib
import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, cast

import av
import msgspec
import numpy as np
import torch
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModel

from operators.annotations import LAYOUTS
from operators.clip import VisionEncoder
from operators.costs.shapes import CLIP_L_336, VisionShape
from operators.frames import FramePolicy
from operators.image import DEFAULT_IMAGE_POLICY
from operators.preprocess import CLIP_PROCESSOR
from operators.render import RenderPolicy, render_medium
from schemas.recipe import ViewsConfig
from schemas.record import MediumKind

PICTURE_PX: Final = (640, 480)
CLIP_S: Final = 4
CLIP_FPS: Final = 30
GPU_BATCH: Final = 64
HEAD_WIDTH: Final = 64
"""Of CLIP's towers; of others it changes their time little."""
SHORT_S: Final = 2.0
"""How long each kind of work is repeated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """CPU seconds of one core, and what a GPU here would give."""

    record_s: float
    """Parsing one annotation row of usual length; grouping takes as long again."""
    picture_s: float
    """Decoding one picture of 640 x 480 and cutting its views."""
    clip_second_s: float
    """Decoding one second of a clip of 640 x 480 at 30 frames a second, and cutting its views."""
    byte_s: float
    """Hashing and copying one byte."""
    view_s: float
    """Encoding one view on one core; 0 where it was not timed."""
    gpu_views_per_s: float | None = None
    """On this machine's GPU; None: there is none."""


def calibrate(
    views: ViewsConfig,
    tower: VisionShape = CLIP_L_336,
    *,
    with_encoder: bool = True,
    short_s: float = SHORT_S,
) -> Calibration:
    """Measure for some seconds; with the encoder on a CPU, about a minute."""
    return Calibration(
        record_s=time_work(_make_parser(), short_s),
        picture_s=time_work(_make_renderer(views, _draw_picture(), MediumKind.IMAGE), short_s),
        clip_second_s=time_work(_make_renderer(views, _draw_clip(), MediumKind.VIDEO), short_s) / CLIP_S,
        byte_s=_time_bytes(short_s),
        view_s=_time_encoder(tower) if with_encoder else 0.0,
        gpu_views_per_s=_time_gpu(tower) if with_encoder and torch.cuda.is_available() else None,
    )


def time_work(work: Callable[[], object], short_s: float) -> float:
    """CPU seconds of one call, the mean over some time, after one that is not counted."""
    work()
    started_s, count = time.process_time(), 0
    while (spent_s := time.process_time() - started_s) < short_s or not count:
        work()
        count += 1
    return spent_s / count


def _make_parser() -> Callable[[], object]:
    """A row of LLaVA's usual length, 1.3 KB."""
    turns = [
        turn
        for number in range(4)
        for turn in (
            {"from": "human", "value": ("<image>\n" if not number else "") + "What is shown here? " * 4},
            {"from": "gpt", "value": "It shows a street with people who walk past shops. " * 4},
        )
    ]
    row = msgspec.json.encode({"id": "1", "image": "coco/1.jpg", "conversations": turns})
    parse = LAYOUTS["llava"].parse
    return lambda: parse(msgspec.json.decode(row))


def _make_renderer(views: ViewsConfig, data: bytes, kind: MediumKind) -> Callable[[], object]:
    policy = RenderPolicy(
        layout=views.image,
        aspect=views.aspect,
        processor=CLIP_PROCESSOR,
        image=DEFAULT_IMAGE_POLICY,
        frames=FramePolicy(
            fps=views.video.fps,
            uniform=views.video.uniform,
            max_frames=views.video.max_frames,
            rule=views.video.rule,
        ),
        backend=views.video.backend,
        preprocess=views.preprocess,
    )
    return lambda: render_medium(data, kind, policy)


def _draw_frame(generator: np.random.Generator) -> Image.Image:
    """Smooth with some noise, as photographs are: a JPEG of about 60 KB."""
    coarse = generator.integers(0, 255, (12, 16, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize(PICTURE_PX, Image.Resampling.BICUBIC), np.int16)
    noise = generator.normal(0, 6, smooth.shape)
    return Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8))


def _draw_picture() -> bytes:
    file = io.BytesIO()
    _draw_frame(np.random.default_rng(0)).save(file, "JPEG", quality=85)
    return file.getvalue()


def _draw_clip() -> bytes:
    file = io.BytesIO()
    frame = np.asarray(_draw_frame(np.random.default_rng(1)))
    with cast(Any, av.open(file, "w", format="mp4")) as container:
        stream = container.add_stream("mpeg4", rate=CLIP_FPS)
        stream.width, stream.height, stream.pix_fmt = *PICTURE_PX, "yuv420p"
        for number in range(CLIP_S * CLIP_FPS):
            moved = np.ascontiguousarray(np.roll(frame, number, axis=1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(moved, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def _time_bytes(short_s: float) -> float:
    block = bytes(8 << 20)
    out = bytearray(len(block))

    def work() -> None:
        hashlib.sha256(block).digest()
        out[:] = block

    return time_work(work, short_s) / len(block)


def _make_encoder(tower: VisionShape, dtype: torch.dtype) -> VisionEncoder:
    patch_px = math.isqrt(tower.patch_values // 3)
    config = CLIPVisionConfig(
        hidden_size=tower.width,
        intermediate_size=tower.inner_width,
        num_hidden_layers=tower.layers,
        num_attention_heads=max(1, tower.width // HEAD_WIDTH),
        image_size=math.isqrt(tower.patches) * patch_px,
        patch_size=patch_px,
    )
    with torch.random.fork_rng(devices=[]):  # pyright: ignore[reportUnknownMemberType]
        return VisionEncoder(cast(Any, CLIPVisionModel(config)).to(dtype))


def _time_encoder(tower: VisionShape) -> float:
    """CPU seconds of one view, all threads together."""
    encoder = _make_encoder(tower, torch.float32)
    pixels = torch.zeros(1, 3, encoder.size_px, encoder.size_px)
    return time_work(lambda: encoder.encode(pixels), 0.0)


def _time_gpu(tower: VisionShape) -> float:
    """Views a second of this machine's GPU, half precision, wall time."""
    encoder = _make_encoder(tower, torch.bfloat16).to("cuda")
    pixels = torch.zeros(GPU_BATCH, 3, encoder.size_px, encoder.size_px, device="cuda")
    encoder.encode(pixels)
    torch.cuda.synchronize()
    started_s, count = time.perf_counter(), 8
    for _ in range(count):
        encoder.encode(pixels)
    torch.cuda.synchronize()
    return count * GPU_BATCH / (time.perf_counter() - started_s)
