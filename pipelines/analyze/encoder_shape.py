"""The sizes of a recipe's encoder, from its configuration on this machine; no weights are read.

A name whose files are not here is not fetched for a plan: it counts as CLIP ViT-L/14 at 336 pixels, which the
published recipes name, and the plan says so.
"""

from dataclasses import dataclass
from typing import Any, cast

from transformers import AutoConfig

from operators.costs.shapes import CLIP_L_336, VisionShape
from operators.loading import quiet_transformers
from schemas.recipe import EncoderConfig

CHANNELS = 3


@dataclass(frozen=True, slots=True)
class FoundShape:
    """What is counted with."""

    shape: VisionShape
    is_assumed: bool
    """The encoder is not here, and is no ViT-L/14-336 by its name."""


def find_encoder_shape(model: str) -> FoundShape:
    """The shape of a CLIP or SigLIP tower by folder or name."""
    try:
        with quiet_transformers():
            loaded = cast(Any, AutoConfig).from_pretrained(
                model, trust_remote_code=False, local_files_only=True
            )
        return FoundShape(_read_shape(getattr(loaded, "vision_config", loaded)), is_assumed=False)
    except (OSError, ValueError, AttributeError):
        return FoundShape(CLIP_L_336, is_assumed=model != EncoderConfig().model)


def _read_shape(config: object) -> VisionShape:
    names = ("num_hidden_layers", "hidden_size", "intermediate_size", "image_size", "patch_size")
    layers, width, inner_width, image_px, patch_px = (int(getattr(config, name)) for name in names)
    return VisionShape(
        layers=layers,
        width=width,
        inner_width=inner_width,
        patches=(image_px // patch_px) ** 2,
        patch_values=CHANNELS * patch_px**2,
    )
