"""The largest micro-batches that a run can meet: what its memory is planned for.

What examples hold at most is given (`ExampleBounds`), and a configuration says how many go through the model
at once. Of all numbers of frames and lengths of text that fit together, those are taken that give most rows
to read in pre-fusion, in the language model, or to learn from. One shape is nearly always the largest in all
three; where not, each is predicted, and the highest peak counts.

Bounds hold each for itself: the most frames stand beside the longest text, though no example may have both.
Where a budget of tokens fills a unit, it is the shortest texts that bring the most pictures.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from operators.views import VIEWS_PER_PICTURE
from pipelines.train.shape import count_patches, count_views, tokens_of_frame
from pipelines.train.step_shape import StepShape
from schemas.feature import FeatureSpec
from schemas.training import TrainConfig

SHORTEST_TEXT: Final = 32
"""Tokens of an example's text, where they were not counted: a question, an answer and their roles."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleBounds:
    """What the examples of a run hold at most."""

    pictures: int = 1
    """Of an example without clips; 0: there is none."""
    frames: int = 0
    """Of an example with clips, its pictures among them; 0: there is none."""
    text: int
    """Tokens."""
    instruction: int
    """Tokens that are fused."""
    answer: int
    """Tokens that are learned."""
    shortest: int = SHORTEST_TEXT
    """Tokens of the shortest text."""


@dataclass(frozen=True, slots=True)
class FeatureShape:
    """Features of a picture as they reach the model; by default those of ViT-L/14 at 336 pixels."""

    views: int = 1
    patches: int = 576
    width: int = 1024


def shape_features(config: TrainConfig, spec: FeatureSpec | None) -> FeatureShape:
    """The features of a spec as a configuration reads them; without one, the most that there could be."""
    if spec is None:
        return FeatureShape(VIEWS_PER_PICTURE["hd4"] if config.data.views == "all" else 1)
    return FeatureShape(count_views(config, spec), count_patches(config, spec), spec.encoder.width)


def list_largest_steps(
    config: TrainConfig, bounds: ExampleBounds, features: FeatureShape, context: int | None = None
) -> tuple[StepShape, ...]:
    """The micro-batches that may be the largest.

    Args:
        config: of the run.
        bounds: of its examples.
        features: of its media.
        context: tokens that the language model reads: a run with longer examples does not begin; None: any.
    """
    # Pictures with several views and clips never share a batch; otherwise any two examples may.
    kinds = {(bounds.pictures, features.views), (bounds.frames, 1)}
    if features.views == 1:
        kinds = {(max(bounds.pictures, bounds.frames), 1)}
    sizes = {
        shape: _measure(config, shape)
        for most_frames, views in sorted(kinds)
        for shape in _list_shapes(config, bounds, replace(features, views=views), most_frames, context)
    }
    largest = dict.fromkeys(
        max(sizes, key=lambda shape, place=place: (sizes[shape][place], sizes[shape])) for place in range(3)
    )
    return tuple(
        shape for shape in largest if not any(_is_within(sizes[shape], sizes[one]) for one in largest)
    )


def _list_shapes(
    config: TrainConfig,
    bounds: ExampleBounds,
    features: FeatureShape,
    most_frames: int,
    context: int | None,
) -> Iterator[StepShape]:
    """Micro-batches of each number of frames, with the longest text beside them and with the shortest."""
    data = config.data
    per_frame = tokens_of_frame(config, features.views, features.patches)
    rooms = [context, None if data.unit == "count" else data.unit_tokens]
    room = min((one for one in rooms if one is not None), default=None)
    shortest = min(bounds.shortest, bounds.text)
    # Pre-fusion is made for as many rows as the language model.
    fused = bounds.instruction if context is None else context - features.views * features.patches - per_frame
    for num_frames in range(min(1, most_frames), most_frames + 1):
        left = bounds.text if room is None else min(bounds.text, room - num_frames * per_frame)
        if left < shortest and num_frames > 1:
            return
        for text in dict.fromkeys((max(left, 2), max(shortest, 2))):
            fitting = data.unit_tokens // (text + num_frames * per_frame)
            yield from _share_text(
                StepShape(
                    num_examples=data.micro_batch if data.unit == "count" else max(1, fitting),
                    num_tokens=text,
                    num_labels=max(1, min(bounds.answer, text)),
                    num_fused=max(1, min(bounds.instruction, fused, text - 1)),
                    num_frames=num_frames,
                    views_per_frame=features.views,
                    num_patches=features.patches,
                    encoder_width=features.width,
                    is_reduced=config.model.reducer.needs_focus,
                )
            )


def _share_text(shape: StepShape) -> Iterator[StepShape]:
    """One example alone has a long instruction or a long answer; of several, one has the one."""
    over = shape.num_labels + shape.longest_instruction - shape.num_tokens
    if shape.num_examples > 1 or over <= 0:
        yield shape
        return
    yield replace(shape, num_labels=shape.num_labels - over)
    yield replace(shape, num_fused=shape.longest_instruction - over)


def _measure(config: TrainConfig, shape: StepShape) -> tuple[int, int, int]:
    """Rows that pre-fusion reads, that the language model reads, and that are learned."""
    seen = shape.views_per_frame * shape.num_patches + shape.longest_instruction
    per_frame = tokens_of_frame(config, shape.views_per_frame, shape.num_patches)
    read = shape.num_examples * (shape.num_tokens + shape.num_frames * per_frame)
    return shape.total_frames * seen, read, shape.num_examples * shape.num_labels


def _is_within(sizes: tuple[int, ...], others: tuple[int, ...]) -> bool:
    """Whether another is no smaller anywhere, and larger somewhere."""
    return sizes != others and all(one <= other for one, other in zip(sizes, others, strict=True))
