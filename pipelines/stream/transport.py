"""Steps from one process to another: everything small by pickle, all encoded views in one piece of memory.

A step of 256 pictures holds 170 MB. Torch hands tensors over in shared memory, one file descriptor each, so
a step has one tensor. Costs one copy, in the process that read.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from jaxtyping import UInt8
from torch import Tensor

from operators.batch import TrainingExample
from operators.codec import Codec
from operators.stored import StoredFeatures
from pipelines.stream.walk import Position
from schemas.errors import PipelineError, WorkError

MicroBatch = list[TrainingExample]
"""Empty where a step has no unit for this rank: it takes part in the step with weight 0."""


@dataclass(frozen=True, slots=True)
class PackedMedium:
    """A medium without its bytes."""

    num_frames: int
    views_per_frame: int
    num_patches: int
    width: int
    sizes: tuple[int, ...]
    """Bytes of each view."""


@dataclass(frozen=True, slots=True)
class PackedStep:
    """A step on its way, or the error that came instead."""

    position: Position
    batches: list[MicroBatch]
    """Without media."""
    media: list[PackedMedium]
    """Of all examples, in order."""
    num_media: list[int]
    """Of each example."""
    views: UInt8[Tensor, " bytes"] | None
    error: PipelineError | None = None


def pack_step(position: Position, batches: Sequence[MicroBatch]) -> PackedStep:
    """A step in two pieces.

    Raises:
        WorkError: when features are not as they were stored.
    """
    examples = [example for batch in batches for example in batch]
    media: list[StoredFeatures] = []
    for example in examples:
        for medium in example.media:
            if not isinstance(medium, StoredFeatures):
                raise WorkError(f"example {example.example_id} comes with decoded features")
            media.append(medium)
    payloads = [payload for medium in media for payload in medium.payloads]
    views = torch.empty(sum(map(len, payloads)), dtype=torch.uint8)
    room, start = memoryview(cast(Any, views.numpy())), 0
    for payload in payloads:
        room[start : start + len(payload)] = payload
        start += len(payload)
    return PackedStep(
        position=position,
        batches=[[replace(example, media=()) for example in batch] for batch in batches],
        media=[
            PackedMedium(
                medium.num_frames,
                medium.views_per_frame,
                medium.num_patches,
                medium.width,
                tuple(map(len, medium.payloads)),
            )
            for medium in media
        ],
        num_media=[len(example.media) for example in examples],
        views=views,
    )


def unpack_step(packed: PackedStep, codec: Codec) -> list[MicroBatch]:
    """The step again, its views in the memory that was handed over.

    Raises:
        PipelineError: the one that came instead of the step.
    """
    if packed.error is not None:
        raise packed.error
    room = memoryview(cast(Any, packed.views.numpy())) if packed.views is not None else memoryview(b"")
    media: list[StoredFeatures] = []
    start = 0
    for medium in packed.media:
        payloads: list[memoryview] = []
        for size in medium.sizes:
            payloads.append(room[start : start + size])
            start += size
        media.append(
            StoredFeatures(
                payloads=tuple(payloads),
                num_frames=medium.num_frames,
                views_per_frame=medium.views_per_frame,
                num_patches=medium.num_patches,
                width=medium.width,
                codec=codec,
            )
        )
    left, counts = iter(media), iter(packed.num_media)
    return [
        [replace(example, media=tuple(next(left) for _ in range(next(counts)))) for example in batch]
        for batch in packed.batches
    ]
