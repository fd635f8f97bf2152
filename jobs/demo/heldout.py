"""Questions that training never sees, about pictures and clips that it never sees.

Every answer of a kind is right equally often, so that a model that ignores the picture, or is shown another
one, scores chance: one over the number of candidates. The file is a LLaVA annotation file with two more
keys, `kind` and `candidates`; an answer is right when it equals the gpt turn.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final, TypeVar

from msgspec import UNSET

from jobs.demo.language import SHORT_ANSWER, Question, QuestionKind, ask_clip, ask_picture
from jobs.demo.layouts import HeldoutRecord, talk, write_json
from jobs.demo.media import encode_clip, encode_picture, write_file
from jobs.demo.scenes import Clip, Color, Direction, Picture, Shape, seed_random

_PICTURE_KINDS: Final = (QuestionKind.FIGURE, QuestionKind.BACKGROUND, QuestionKind.SHAPE)
_CLIP_KINDS: Final = (QuestionKind.BALL, QuestionKind.FIRST_BACKGROUND, QuestionKind.LAST_BACKGROUND)
_NUM_CLIPS: Final = 24

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldoutSet:
    """The held-out questions on disk."""

    annotations: Path
    media_root: Path
    num_questions: int
    num_media: int
    chance: float
    """The mean over all questions of one over the number of candidates."""


def render_heldout(folder: Path, seed: int) -> HeldoutSet:
    """`heldout.json`, `images/` and `videos/` under `folder`."""
    rows = [*_ask_pictures(folder, seed_random(seed, "heldout", "images"))]
    rows += _ask_clips(folder, seed_random(seed, "heldout", "videos"))
    annotations = folder / "heldout.json"
    write_json(annotations, rows)
    media = {(row.image, row.video) for row in rows}
    return HeldoutSet(
        annotations=annotations,
        media_root=folder,
        num_questions=len(rows),
        num_media=len(media),
        chance=sum(1 / len(row.candidates) for row in rows) / len(rows),
    )


def balanced_pictures(random: Random) -> list[Picture]:
    """One picture of every ordered pair of two colors, shapes dealt evenly."""
    colors = list(Color)
    pairs = [(ground, figure) for ground in colors for figure in colors if ground is not figure]
    shapes = _deal(list(Shape), len(pairs), random)
    return [
        Picture(
            width_px=320,
            height_px=240,
            ground=ground,
            figure=figure,
            shape=shape,
            center=(random.uniform(0.4, 0.6), random.uniform(0.4, 0.6)),
            radius=random.uniform(0.32, 0.4),
            seed=random.getrandbits(32),
        )
        for (ground, figure), shape in zip(pairs, shapes, strict=True)
    ]


def balanced_clips(random: Random) -> list[Clip]:
    """Clips whose ball, first and last ground show every color equally often."""
    colors = list(Color)
    directions = _deal(list(Direction), _NUM_CLIPS, random)
    return [
        Clip(
            width_px=224,
            height_px=168,
            frames_per_s=8,
            duration_s=4,
            ground=colors[index % 8],
            ball=colors[(index + 3) % 8],
            last_ground=colors[(index + 5 * (index // 8)) % 8],
            direction=directions[index],
            seed=random.getrandbits(32),
        )
        for index in range(_NUM_CLIPS)
    ]


def _deal(values: list[_Value], count: int, random: Random) -> list[_Value]:
    dealt = [values[index % len(values)] for index in range(count)]
    random.shuffle(dealt)
    return dealt


def _ask_pictures(folder: Path, random: Random) -> Iterator[HeldoutRecord]:
    for index, picture in enumerate(balanced_pictures(random)):
        path = f"images/{index:06d}.jpg"
        write_file(folder / path, encode_picture(picture))
        for kind in _PICTURE_KINDS:
            question = ask_picture(picture, kind, random)
            yield _record(f"image-{index}", question, f"<image>\n{question.text}\n{SHORT_ANSWER}", image=path)


def _ask_clips(folder: Path, random: Random) -> Iterator[HeldoutRecord]:
    for index, clip in enumerate(balanced_clips(random)):
        path = f"videos/{index:06d}.mp4"
        write_file(folder / path, encode_clip(clip, ".mp4"))
        for kind in _CLIP_KINDS:
            question = ask_clip(clip, kind)
            yield _record(f"video-{index}", question, f"<video>\n{question.text} {SHORT_ANSWER}", video=path)


def _record(
    name: str, question: Question, asked: str, *, image: str | None = None, video: str | None = None
) -> HeldoutRecord:
    return HeldoutRecord(
        id=f"{name}-{question.kind}",
        image=image or UNSET,
        video=video or UNSET,
        conversations=talk((asked, question.answer)),
        kind=question.kind,
        candidates=list(question.candidates),
    )
