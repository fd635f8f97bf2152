"""`onetoken bench media`: the sides do the same work, and every figure is there."""

import numpy as np
import pytest
import torch
from PIL import Image

import jobs.bench.media
from jobs.bench.bounds import BOUNDS
from jobs.bench.media import Turn, measure, take_turns
from jobs.bench.media_sides import (
    decode_clip,
    encode_picture,
    encode_picture_by_rival,
    preprocess_exactly,
    preprocess_fast,
    sample_clip,
)
from jobs.bench.sample_media import FPS, make_jpeg, repeat_clip, write_clip
from jobs.bench.tree_memory import can_watch_memory


@pytest.mark.parametrize("layout", ["global", "hd4"])
@pytest.mark.parametrize("size", [(640, 428), (300, 500)])
def test_both_sides_give_the_same_tensors(size, layout):
    data = make_jpeg(*size)
    ours, rival = encode_picture(data, layout), encode_picture_by_rival(data, layout)
    assert ours.shape == (5 if layout == "hd4" else 1, 3, 336, 336)
    assert torch.equal(ours, rival)


def test_the_fast_way_does_the_same_work():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (428, 640, 3), dtype=np.uint8))
    exact, fast = preprocess_exactly(image, "hd4"), preprocess_fast(image, "hd4")
    assert exact.shape == fast.shape
    assert 0 < np.abs(exact - fast).max() < 0.02


def test_clips_are_repeated_whole(tmp_path):
    write_clip(tmp_path / "one.mp4", 160, 96, 2 * FPS, bit_rate=200_000)
    repeat_clip(tmp_path / "one.mp4", tmp_path / "three.mp4", 3)
    assert (sample_clip(tmp_path / "one.mp4"), decode_clip(tmp_path / "one.mp4")) == (2, 2 * FPS)
    assert (sample_clip(tmp_path / "three.mp4"), decode_clip(tmp_path / "three.mp4")) == (6, 6 * FPS)


def test_sides_take_turns_and_the_first_round_does_not_count():
    order, clock = [], iter(range(100))
    turn = take_turns(lambda: order.append("ours"), lambda: order.append("rival"), 2, lambda: next(clock))
    assert order == ["rival", "ours", "ours", "rival", "rival", "ours"]
    assert turn == Turn(1000.0, 1000.0, 1.0)


def test_a_ratio_is_that_of_turns_that_follow_each_other():
    """The machine is ten times as slow in every second round; ours takes half of what the rival does."""
    now = [0.0]
    slowness = iter([1, 1, 1, 1, 10, 10, 1, 1])

    def act(seconds):
        now[0] += seconds * next(slowness)

    turn = take_turns(lambda: act(1.0), lambda: act(2.0), 3, lambda: now[0])
    assert turn == Turn(1000.0, 2000.0, 2.0)


@pytest.mark.skipif(not can_watch_memory(), reason="this system tells no proportional set size")
def test_every_figure_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs.bench.media, "_SEGMENT_S", 1)
    said = []
    measured = measure(tmp_path, said.append, scale=0.001)
    assert set(measured.ratios) == set(BOUNDS["media"])
    assert all(value > 0 for value in measured.ratios.values())
    assert 20 < measured.ratios["long_clip_peak_mib"] < 1000
    assert measured.not_measured == ()
    assert len(said) >= 5
