"""How much of a GPU's arithmetic a step uses: FLOPs by the sizes of layers, over what the device could do.

Counted are 2 FLOPs for each weight and token that passes it, twice more for gradients, once more where only
those of activations are needed; attention's products and recomputed layers are not, as is usual for MFU.
"""

from typing import Any, Final, cast

import torch
from torch import nn

from operators.batch import ModelBatch
from pipelines.train.model import OneTokenModel

DENSE_BF16_FLOPS: Final = {
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "5090": 209e12,
    "4090": 165e12,
    "A10": 125e12,
    "L4": 121e12,
}
"""Dense bfloat16 with fp32 sums, per second, by a part of the device's name; the first that fits."""


def peak_flops(device: torch.device) -> float | None:
    """What a device could do in a second; None where it is not known, as of a CPU."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((flops for part, flops in DENSE_BF16_FLOPS.items() if part in name), None)


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
    passes = 3 if model.stage == 2 else 2
    flops = 2.0 * passes * (num_read * _weights(layers) + num_labels * _weights(model.head))
    num_projected = num_frames * (num_patches + (tokens_per_frame if model.compressor is not None else 0))
    flops += 2.0 * 3 * num_projected * _weights(model.projector)
    if model.prefusion is not None:
        instructions = batch.fuse_mask.sum(dim=1)
        text = sum(
            int(count) * frames for count, frames in zip(instructions, batch.frames_per_example, strict=True)
        )
        flops += 2.0 * 3 * (num_projected + text) * _weights(model.prefusion)
    return flops


def _weights(module: nn.Module) -> int:
    return sum(cast(Any, weight).numel() for weight in module.parameters())


def memory_bytes(device: torch.device) -> int:
    """The most that tensors took on a GPU so far; of a CPU, that the process took."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
