"""A vision tower for the demo: CLIP's architecture at 336/14, narrow, with seeded random weights.

A random tower is no feature extractor to be proud of, but its features are functions of what each patch and
its surroundings show, so a small model can learn from them, and every path that the true tower takes is
taken: 577 rows, `from_pretrained`, safetensors, the image processor's file.
"""

from pathlib import Path

import torch
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from operators.loading import quiet_transformers

SIZE_PX = 336
PATCH_PX = 14


def write_demo_encoder(
    folder: Path,
    *,
    seed: int,
    width: int = 64,
    num_layers: int = 3,
    patch_px: int = PATCH_PX,
    place_spread: float | None = None,
) -> None:
    """Saves the tower and its processor under `folder`; the same arguments give the same bytes.

    `place_spread` is the deviation of the vectors that tell patches where they stand. As the library draws
    them they hardly do: beside what a patch shows they are a hundredth.
    """
    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=num_layers,
        num_attention_heads=max(1, width // 16),
        image_size=SIZE_PX,
        patch_size=patch_px,
    )
    with torch.random.fork_rng(devices=[]):  # pyright: ignore[reportUnknownMemberType]
        torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType]
        tower = CLIPVisionModel(config)
        if place_spread is not None:
            places = tower.get_submodule("embeddings.position_embedding").get_parameter("weight")
            torch.nn.init.normal_(places, std=place_spread)
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": SIZE_PX}, crop_size={"height": SIZE_PX, "width": SIZE_PX}
    )
    with quiet_transformers():
        tower.save_pretrained(folder)  # pyright: ignore[reportUnknownMemberType]
        processor.save_pretrained(folder)  # pyright: ignore[reportUnknownMemberType]
