"""The benchmark of encoding with two layers and one picture: every key, and what is counted."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from jobs.bench.bounds import BOUNDS
from jobs.bench.encode import count_products, measure, write_encoder
from operators.clip import load_encoder


def test_every_key_is_measured(tmp_path):
    measured = measure(tmp_path, lambda words: None, scale=0.01)
    assert measured.ratios.keys() == BOUNDS["encode"].keys()
    assert 0.05 < measured.ratios["vs_bare_encoder"] < 1.5
    assert (measured.details["num_views"], measured.details["num_layers"]) == (5, 2)
    assert all(value > 0 for value in measured.details.values())


def test_products_are_counted_as_torch_counts_them(tmp_path):
    config = write_encoder(tmp_path, 3)
    encoder = load_encoder(str(tmp_path))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        encoder.encode(torch.zeros(1, 3, 336, 336))
    assert count_products(config) == pytest.approx(counter.get_total_flops(), rel=1e-3)
