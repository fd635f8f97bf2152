"""How much of a GPU's arithmetic a step uses: FLOPs by the sizes of layers, over what the device could do.

Counted are 2 FLOPs for each weight and token that passes it, and as many for the gradient of what came in; as
many again for its own gradient where the weight trains: a frozen language model, below adapters or in stage
1, takes two thirds of one that trains. Attention's products and recomputed layers are not counted, as is
usual for MFU.
"""

import math
import re
from typing import Any, Final, cast

import torch
from torch import nn

from operators.batch import ModelBatch
from pipelines.train.model import OneTokenModel

DENSE_BF16_FLOPS: Final = {
    "H100 PCIe": 756e12,
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "5090": 209e12,
    "4090": 165e12,
    "A10": 125e12,
    "L4": 121e12,
}
"""Dense bfloat16 with fp32 sums, per second, by whole words of the device's name; the first that fits.

As copies of the vendor's data sheets have it; where these count sparse matrices, half of that.
"""
_OTHERWISE: Final = frozenset({"Laptop", "D", "MIG", "NVL"})
"""Words of devices that can do less than their name says; how much less is not known here."""


def peak_flops(device: torch.device) -> float | None:
    """What a device could do in a second; None where it is not known, as of a CPU."""
    if device.type != "cuda":
        return None
    return flops_of_device(torch.cuda.get_device_name(device))


def flops_of_device(name: str) -> float | None:
    """What a GPU of this name could do in a second; None where it is not known, as of an A10G."""
    words = set(re.split(r"[^A-Za-z0-9]+", name))
    if words & _OTHERWISE:
        return None
    return next((flops for key, flops in DENSE_BF16_FLOPS.items() if words.issuperset(key.split())), None)


def step_flops(
    model: OneTokenModel, batch: ModelBatch, num_labels: int, num_patches: int, num_views: int = 1
) -> float:
    """FLOPs of the forward and backward pass of a batch, with `num_patches` of each view of a frame.

    Reduced frames count as if all were as long as the longest.
    """
    num_frames = sum(batch.frames_per_medium)
    tokens_per_frame = model.count_frame_tokens(num_views, num_patches)
    num_patches *= num_views
    num_text = int(batch.attention_mask.sum()) - len(batch.frames_per_medium)
    num_read = num_text + num_frames * tokens_per_frame
    layers = cast("nn.ModuleList", model.llm.base_model.layers)
    flops = num_read * _flops_per_row(layers) + num_labels * _flops_per_row(model.head)
    num_projected = num_frames * (num_patches + (tokens_per_frame if model.compressor is not None else 0))
    flops += num_projected * _flops_per_row(model.projector)
    if model.prefusion is not None:
        instructions = batch.fuse_mask.sum(dim=1)
        text = sum(
            int(count) * frames for count, frames in zip(instructions, batch.frames_per_example, strict=True)
        )
        flops += (num_projected + text) * _flops_per_row(model.prefusion)
    return flops


def _flops_per_row(module: nn.Module) -> float:
    """Forward and backward, of each row that passes all of a module's weights."""
    return sum(
        2.0 * (3 if weight.requires_grad else 2) * _num_weights(weight) for weight in module.parameters()
    )


def _num_weights(weight: Any) -> int:  # noqa: ANN401 - plain, or of the library of 4-bit weights
    """Weights in 4 bits lie two to a byte; how they were shaped stands beside them."""
    packed = getattr(weight, "quant_state", None)
    return weight.numel() if packed is None else math.prod(packed.shape)


def memory_bytes(device: torch.device) -> int:
    """The most that tensors took on a GPU so far; of a CPU, that the process took."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
