"""`onetoken bench media`: pictures against transformers' processor, clips against PyAV alone.

CPU time on one thread. Both sides take turns, and a ratio is the median of those of the rounds: what others
do to the machine (shared cores, shared caches) changes from minute to minute, and less between two turns that
follow each other. The sides give the same tensors, which is checked first. What handing a picture to the
decoding process costs stands among the details. At full scale it takes five minutes, most of them for
decoding half an hour of 1080p.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final

import msgspec
import torch

from jobs.bench.fresh import run_fresh
from jobs.bench.long_clip import LongClip
from jobs.bench.media_sides import (
    decode_clip,
    encode_picture,
    encode_picture_by_rival,
    preprocess_exactly,
    preprocess_fast,
    sample_clip,
)
from jobs.bench.result import Measured, Say
from jobs.bench.sample_media import FPS, make_jpeg, repeat_clip, write_clip
from jobs.bench.tree_memory import can_watch_memory
from operators.image import decode_image
from operators.preprocess import CLIP_PROCESSOR
from operators.render import render_medium
from operators.views import Layout
from pipelines.decode.isolated import IsolatedDecoder
from pipelines.decode.policy import rendering_of
from schemas.errors import WorkError
from schemas.recipe import ViewsConfig
from schemas.record import MediumKind

NUM_ROUNDS: Final = 41
NUM_CLIP_ROUNDS: Final = 15
CLIP_S: Final = 60
LONG_CLIP_MINUTES: Final = 30
_SEGMENT_S: Final = 20
_SIZES: Final = {"640": (640, 428), "1920": (1920, 1280)}


@dataclass(frozen=True, slots=True)
class Turn:
    """Two sides that took turns: median times, and what was compared."""

    ours_ms: float
    rival_ms: float
    ratio: float
    """How many times as fast ours is: the median over the rounds."""


def measure(folder: Path, say: Say, scale: float = 1.0) -> Measured:
    """See `Measure`."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        num_rounds = max(3, round(NUM_ROUNDS * scale))
        ratios, details = measure_pictures(num_rounds, say)
        more_ratios, more_details = measure_clips(folder, say, scale)
    finally:
        torch.set_num_threads(before)
    not_measured = () if can_watch_memory() else ("long_clip_peak_mib",)
    for key in not_measured:
        del more_ratios[key]
    return Measured(ratios=ratios | more_ratios, details=details | more_details, not_measured=not_measured)


def measure_pictures(num_rounds: int, say: Say) -> tuple[dict[str, float], dict[str, float]]:
    """The figures of pictures.

    Raises:
        WorkError: when the sides do not give the same tensors.
    """
    pictures = {name: make_jpeg(*size) for name, size in _SIZES.items()}
    turns: dict[str, Turn] = {}
    comparisons: tuple[tuple[str, str, Layout], ...] = (
        ("exact336_vs_hf_640", "640", "global"),
        ("exact336_vs_hf_1920", "1920", "global"),
        ("hd4_vs_hf_640", "640", "hd4"),
    )
    for key, name, layout in comparisons:
        say(f"pictures of {name} pixels, {layout}")
        data = pictures[name]
        if not torch.equal(encode_picture(data, layout), encode_picture_by_rival(data, layout)):
            raise WorkError(f"{key}: the sides do not give the same tensors; nothing was compared")
        turns[key] = take_turns(
            partial(encode_picture, data, layout), partial(encode_picture_by_rival, data, layout), num_rounds
        )
    say("the fast way against the exact one")
    image = decode_image(pictures["640"])
    turns["fast_vs_exact"] = take_turns(
        partial(preprocess_fast, image, "global"), partial(preprocess_exactly, image, "global"), num_rounds
    )
    details = {f"{key}_ms": turn.ours_ms for key, turn in turns.items()}
    details["isolated_vs_here_640"] = measure_isolation(pictures["640"], num_rounds)
    return {key: turn.ratio for key, turn in turns.items()}, details


def measure_isolation(data: bytes, num_rounds: int) -> float:
    """Wall time of a picture's hd4 views from the decoding process, by that of the same in this process."""
    policy = rendering_of(ViewsConfig(), CLIP_PROCESSOR)
    with IsolatedDecoder(policy) as decoder:
        decoder.render(data, MediumKind.IMAGE)
        turn = take_turns(
            partial(decoder.render, data, MediumKind.IMAGE),
            partial(render_medium, data, MediumKind.IMAGE, policy),
            num_rounds,
            time.perf_counter,
        )
    return 1 / turn.ratio


def measure_clips(folder: Path, say: Say, scale: float) -> tuple[dict[str, float], dict[str, float]]:
    """The figures of clips.

    Raises:
        WorkError: when a clip is not read whole.
    """
    short, segment, long = folder / "short.mp4", folder / "segment.mp4", folder / "long.mp4"
    num_seconds = max(2, round(CLIP_S * scale))
    say(f"a clip of {num_seconds} s")
    write_clip(short, 640, 360, num_seconds * FPS, bit_rate=800_000)
    if (sample_clip(short), decode_clip(short)) != (num_seconds, num_seconds * FPS):
        raise WorkError(f"{short} is not read whole; nothing was compared")
    turn = take_turns(partial(sample_clip, short), partial(decode_clip, short), NUM_CLIP_ROUNDS)
    num_times = max(1, round(LONG_CLIP_MINUTES * 60 / _SEGMENT_S * scale))
    say(f"a clip of {num_times * _SEGMENT_S} s in 1080p")
    write_clip(segment, 1920, 1080, _SEGMENT_S * FPS, bit_rate=3_000_000)
    repeat_clip(segment, long, num_times)
    run = run_fresh("jobs.bench.long_clip", [str(long)], watches_memory=can_watch_memory())
    taken = msgspec.json.decode(run.answer, type=LongClip)
    if taken.num_views != num_times * _SEGMENT_S:
        raise WorkError(f"{long} gave {taken.num_views} views; one a second were wanted")
    ratios = {"video_vs_pyav": turn.ratio, "long_clip_peak_mib": run.peak_bytes / 2**20}
    details = {
        "clip_ms": turn.ours_ms,
        "long_clip_file_mib": long.stat().st_size / 2**20,
        "long_clip_real_time": taken.duration_s / taken.cpu_s,
    }
    return ratios, details


def take_turns(
    ours: Callable[[], object],
    rival: Callable[[], object],
    num_rounds: int,
    clock: Callable[[], float] = time.process_time,
) -> Turn:
    """Both sides, one after the other, again and again; who begins changes; the first round is left out."""
    times: tuple[list[float], list[float]] = ([], [])
    sides = list(zip(times, (ours, rival), strict=True))
    for _ in range(num_rounds + 1):
        sides.reverse()
        for side, act in sides:
            started = clock()
            act()
            side.append((clock() - started) * 1000)
    ours_ms, rival_ms = times[0][1:], times[1][1:]
    ratios = [theirs / own for own, theirs in zip(ours_ms, rival_ms, strict=True)]
    return Turn(median(ours_ms), median(rival_ms), median(ratios))
