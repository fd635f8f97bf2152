"""Views normalized where the encoder is get the bits that the CPU gives them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from operators.device_pixels import copy_to_gpu, normalize_on_device
from operators.preprocess import CLIP_PROCESSOR, normalize_views

OTHER = replace(CLIP_PROCESSOR, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


@pytest.mark.parametrize("processor", [CLIP_PROCESSOR, OTHER], ids=["clip", "other"])
def test_every_level_of_every_channel_is_bit_equal(processor):
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    views = np.concatenate([levels.repeat(3, axis=3), 255 - levels.repeat(3, axis=3)])
    expected = torch.as_tensor(normalize_views(views, processor))
    assert torch.equal(normalize_on_device(torch.as_tensor(views), processor), expected)
    assert expected.shape == (2, 3, 16, 16)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_views_arrive_on_a_gpu_that_is_at_work():
    device = torch.device("cuda")
    views = np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3), np.uint8)
    busy = torch.randn(2048, 2048, device=device)
    for _ in range(20):
        busy = busy @ busy / 2048
        assert torch.equal(copy_to_gpu(views, device).cpu(), torch.as_tensor(views))
