"""What a benchmark asks, and what answers to it came to; plain values, whatever file they came from."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question about at most one picture."""

    question_id: str
    prompt: str
    """What the model is asked, instruction and choices included."""
    answers: tuple[str, ...]
    """What people answered; or the one right answer; or, of choices, the right letter."""
    image: str | None = None
    """Path below the benchmark's pictures; None: there is no picture, or it stands in the file."""
    image_bytes: bytes | None = field(default=None, repr=False)
    choices: tuple[str, ...] = ()
    """Texts of A, B, C and so on."""
    category: str = ""
    """The part of the benchmark that it counts for."""
    group: str = ""
    """Questions that are right together or not at all: about one picture, or one question turned around."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What the answers to a benchmark came to."""

    overall: float
    """The number that papers print."""
    parts: dict[str, float]
    """What else the rule gives, by name."""
    num_questions: int
    num_unread: int = 0
    """Answers that the rule could read nothing out of; they count as wrong."""


def letter_of(place: int) -> str:
    """`A` for the first choice."""
    return chr(ord("A") + place)


def share_of(flags: list[bool]) -> float:
    """Percent that is true; 0 of nothing."""
    return 100 * sum(flags) / len(flags) if flags else 0.0
