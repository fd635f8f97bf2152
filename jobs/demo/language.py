"""What can be said about a scene: captions, questions and answers, all read off the scene that was drawn.

Questions come in few fixed forms with one-word answers from short lists, so that a small model can learn
them and chance is known: it is one over the number of candidates. A question never names what its answer
depends on, and answers are drawn evenly, so nothing but the picture tells them.
"""

from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Final

from jobs.demo.scenes import Clip, Color, Direction, Pattern, Picture, Shape

SHORT_ANSWER: Final = "Answer the question using a single word or phrase."
NOISY_LABEL: Final = "QA_GT_caption_based_noisy"
"""A label that leaked into published answers; ingest takes it out."""
WORDS: Final = ("OPEN", "STOP", "MILK", "TAXI")

_CAPTION_REQUESTS: Final = (
    "Say in a few words what the picture shows.",
    "Write a short caption for this picture.",
    "What is in the picture? Be brief.",
    "Sum up the picture in one line.",
)
_PATTERN_PHRASES: Final = {
    Pattern.PLAIN: "plain",
    Pattern.STRIPES: "striped",
    Pattern.DOTS: "dotted",
    Pattern.CHECKS: "checked",
}


class QuestionKind(StrEnum):
    """The forms of question."""

    BACKGROUND = "background"
    FIGURE = "figure"
    SHAPE = "shape"
    PATTERN = "pattern"
    LEFT_HALF = "left_half"
    RIGHT_HALF = "right_half"
    PRESENCE = "presence"
    WORD = "word"
    BALL = "ball"
    FIRST_BACKGROUND = "first_background"
    LAST_BACKGROUND = "last_background"
    DIRECTION = "direction"


@dataclass(frozen=True, slots=True)
class Question:
    """One question with its answer and everything that could be answered."""

    kind: QuestionKind
    text: str
    answer: str
    candidates: tuple[str, ...]


COLOR_ANSWERS: Final = tuple(color.capitalize() for color in Color)
SHAPE_ANSWERS: Final = tuple(shape.capitalize() for shape in Shape)
PATTERN_ANSWERS: Final = tuple(pattern.capitalize() for pattern in Pattern)
DIRECTION_ANSWERS: Final = tuple(direction.capitalize() for direction in Direction)


def request_caption(random: Random) -> str:
    """One of the ways to ask for a caption."""
    return random.choice(_CAPTION_REQUESTS)


def caption_picture(picture: Picture, random: Random) -> str:
    """A short lower-case caption with spaces round its punctuation, as automatic captions have them."""
    ground = _name_ground(picture)
    sign = "" if picture.word is None else f" , with the word {picture.word.lower()}"
    return random.choice(
        (
            f"a {picture.figure} {picture.shape} on a {ground} background{sign}",
            f"{picture.figure} {picture.shape} , {ground} background{sign}",
            f"a picture of a {picture.figure} {picture.shape} on {ground}{sign}",
        )
    )


def describe_picture(picture: Picture) -> str:
    """A few whole sentences."""
    across = "left of" if picture.center[0] < 0.48 else "right of" if picture.center[0] > 0.52 else "at"
    sentences = [
        f"The picture shows a {picture.figure} {picture.shape} on a {_name_ground(picture)} background.",
        f"The {picture.shape} stands {across} the center and is the only figure.",
    ]
    if picture.word is not None:
        sentences.append(f"Below it the word {picture.word} is printed in {picture.figure} letters.")
    return " ".join(sentences)


def describe_clip(clip: Clip) -> str:
    """A few whole sentences."""
    sentences = [f"The video shows a {clip.ball} ball that moves {clip.direction}."]
    if clip.ground is clip.last_ground:
        sentences.append(f"The background is {clip.ground} all the time.")
    else:
        sentences.append(f"The background is {clip.ground} first and turns {clip.last_ground} halfway.")
    return " ".join(sentences)


def name_region(picture: Picture) -> tuple[str, str]:
    """The box of the figure in shares of the picture, and what is in it."""
    shorter = min(picture.width_px, picture.height_px)
    half_width = picture.radius * shorter / picture.width_px
    half_height = picture.radius * shorter / picture.height_px
    x, y = picture.center
    corners = (x - half_width, y - half_height, x + half_width, y + half_height)
    box = ", ".join(f"{min(1.0, max(0.0, corner)):.2f}" for corner in corners)
    return f"[{box}]", f"a {picture.figure} {picture.shape}"


def picture_kinds(picture: Picture) -> tuple[QuestionKind, ...]:
    """What can be asked about the picture; colors first and more often, since they are learned first."""
    if picture.right_ground is not None:
        ground = (QuestionKind.LEFT_HALF, QuestionKind.RIGHT_HALF)
    else:
        ground = (QuestionKind.BACKGROUND, QuestionKind.PATTERN)
    word = () if picture.word is None else (QuestionKind.WORD,)
    return (QuestionKind.FIGURE, ground[0], QuestionKind.SHAPE, ground[1], QuestionKind.PRESENCE, *word)


def ask_picture(picture: Picture, kind: QuestionKind, random: Random) -> Question:
    """A question of one kind about a picture.

    Raises:
        KeyError: the kind does not fit the picture.
    """
    if kind is QuestionKind.PRESENCE:
        return _ask_presence(picture, random)
    forms: dict[QuestionKind, tuple[str, str, tuple[str, ...]]] = {
        QuestionKind.FIGURE: ("What color is the figure?", picture.figure, COLOR_ANSWERS),
        QuestionKind.SHAPE: ("What shape is the figure?", picture.shape, SHAPE_ANSWERS),
    }
    if picture.right_ground is None:
        forms[QuestionKind.BACKGROUND] = ("What color is the background?", picture.ground, COLOR_ANSWERS)
        forms[QuestionKind.PATTERN] = ("What pattern has the background?", picture.pattern, PATTERN_ANSWERS)
    else:
        forms[QuestionKind.LEFT_HALF] = ("What color is the left half?", picture.ground, COLOR_ANSWERS)
        forms[QuestionKind.RIGHT_HALF] = (
            "What color is the right half?",
            picture.right_ground,
            COLOR_ANSWERS,
        )
    if picture.word is not None:
        words = tuple(word.capitalize() for word in WORDS)
        forms[QuestionKind.WORD] = ("What word is printed?", picture.word.lower(), words)
    text, answer, candidates = forms[kind]
    return Question(kind, text, answer.capitalize(), candidates)


def clip_kinds() -> tuple[QuestionKind, ...]:
    """What can be asked about any clip."""
    return (
        QuestionKind.BALL,
        QuestionKind.FIRST_BACKGROUND,
        QuestionKind.LAST_BACKGROUND,
        QuestionKind.DIRECTION,
    )


def ask_clip(clip: Clip, kind: QuestionKind) -> Question:
    """A question of one kind about a clip.

    Raises:
        KeyError: the kind does not fit a clip.
    """
    text, answer, candidates = {
        QuestionKind.BALL: ("What color is the ball?", clip.ball, COLOR_ANSWERS),
        QuestionKind.FIRST_BACKGROUND: (
            "What color is the background at the start?",
            clip.ground,
            COLOR_ANSWERS,
        ),
        QuestionKind.LAST_BACKGROUND: (
            "What color is the background at the end?",
            clip.last_ground,
            COLOR_ANSWERS,
        ),
        QuestionKind.DIRECTION: ("Which way does the ball move?", clip.direction, DIRECTION_ANSWERS),
    }[kind]
    return Question(kind, text, answer.capitalize(), candidates)


def chat(random: Random, num_rounds: int) -> list[tuple[str, str]]:
    """Rounds of talk that need no picture: sums, orders and the demo's own words."""
    return [random.choice((_add, _count, _order, _spell))(random) for _ in range(num_rounds)]


def _name_ground(picture: Picture) -> str:
    if picture.right_ground is not None:
        return f"{picture.ground} and {picture.right_ground}"
    if picture.pattern is Pattern.PLAIN:
        return picture.ground
    return f"{_PATTERN_PHRASES[picture.pattern]} {picture.ground}"


def _ask_presence(picture: Picture, random: Random) -> Question:
    shown = {picture.ground, picture.figure, picture.right_ground}
    absent = [color for color in Color if color not in shown]
    is_there = random.random() < 0.5
    color = picture.figure if is_there else random.choice(absent)
    return Question(
        QuestionKind.PRESENCE, f"Is there a {color} figure?", "Yes" if is_there else "No", ("Yes", "No")
    )


def _add(random: Random) -> tuple[str, str]:
    first, second = random.randint(1, 9), random.randint(1, 9)
    return f"What is {first} plus {second}?", f"{first} plus {second} is {first + second}."


def _count(random: Random) -> tuple[str, str]:
    start = random.randint(1, 9)
    numbers = ", ".join(str(start + step) for step in range(5))
    return f"Count five numbers up from {start}.", f"Here they are: {numbers}."


def _order(random: Random) -> tuple[str, str]:
    colors = random.sample(list(Color), 4)
    return (
        f"Put these colors in the order of the alphabet: {', '.join(colors)}.",
        f"In the order of the alphabet: {', '.join(sorted(colors))}.",
    )


def _spell(random: Random) -> tuple[str, str]:
    word = random.choice([*Color, *Shape, *Direction])
    return f"Spell the word {word}.", f"The word {word} is spelled {'-'.join(word)}."
