"""Checks and mends that all layouts share: turns, their roles and texts, and the placeholders in them.

Placeholders, for a record with one medium: exactly one, in a question. None at all is mended by putting
it in front of the first question; more than one, or one in an answer, is a mismatch. A clip may be
announced by `<image>`, as LLaVA-NeXT writes it.

For the other words, those that no medium of the record answers to: a question that begins with the word,
or whose last line is the word alone, calls for a medium that is not there, and the record is refused.
Everywhere else it is prose (chats about HTML hold `<video>` and `<image>` tags) and is written `<video
>`: the same tag to HTML, and no placeholder to anybody.
"""

from collections.abc import Iterable
from typing import Final

from operators.annotations.fields import check_list, check_text, read_field, read_object
from schemas.errors import RejectCode, SampleError
from schemas.record import IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER, MediumKind, Repair, Turn

LEAKED_LABEL: Final = "QA_GT_caption_based_noisy"
"""Name of a file of the authors of Video-ChatGPT, left in many of their texts."""

_PLACEHOLDERS: Final = (IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER)
_ROLES: Final = ("human", "gpt")

Turns = tuple[Turn, ...]
Repairs = tuple[Repair, ...]


def read_turns(fields: dict[str, object]) -> Turns:
    """The turns of `conversations`: human and gpt in alternation, human first; texts may still be empty.

    Raises:
        SampleError: MISSING_FIELD, BAD_TYPE, EMPTY_CONVERSATION, NOT_AN_OBJECT or BAD_ROLE.
    """
    values = check_list(read_field(fields, "conversations"), "'conversations'")
    if not values:
        raise SampleError(RejectCode.EMPTY_CONVERSATION, "'conversations' has no turn")
    return tuple(_read_turn(value, index) for index, value in enumerate(values))


def check_texts(turns: Turns) -> None:
    """Every question has an answer, and none is blank.

    Raises:
        SampleError: EMPTY_QUESTION or EMPTY_ANSWER.
    """
    for index, turn in enumerate(turns):
        if not turn.text.strip():
            is_question = turn.role == "human"
            code = RejectCode.EMPTY_QUESTION if is_question else RejectCode.EMPTY_ANSWER
            raise SampleError(code, f"turn {index} ({turn.role}) is blank")
    if turns[-1].role == "human":
        raise SampleError(RejectCode.EMPTY_ANSWER, f"turn {len(turns) - 1} is a question without an answer")


def remove_leaked_label(turns: Turns) -> tuple[Turns, Repairs]:
    """The turns without the label that Video-ChatGPT's texts leak."""
    if not any(LEAKED_LABEL in turn.text for turn in turns):
        return turns, ()
    cleaned = tuple(
        Turn(turn.role, turn.text.replace(LEAKED_LABEL, "").strip()) if LEAKED_LABEL in turn.text else turn
        for turn in turns
    )
    return cleaned, (Repair.LEAKED_LABEL_REMOVED,)


def settle_placeholders(turns: Turns, kind: MediumKind | None) -> tuple[Turns, Repairs]:
    """The turns with exactly one placeholder for a medium of `kind`, or with none where there is no medium.

    Raises:
        SampleError: PLACEHOLDER_WITHOUT_MEDIUM or PLACEHOLDER_MISMATCH.
    """
    match kind:
        case None:
            return _escape_words(turns, _PLACEHOLDERS, RejectCode.PLACEHOLDER_WITHOUT_MEDIUM)
        case MediumKind.IMAGE:
            others = (VIDEO_PLACEHOLDER,)
            turns, escaped = _escape_words(turns, others, RejectCode.PLACEHOLDER_MISMATCH)
            _check_count(turns)
            renamed: Repairs = ()
        case MediumKind.VIDEO:
            _check_count(turns)
            escaped = ()
            turns, renamed = _rename_image_words(turns)
    turns, added = _add_missing(turns, kind.placeholder)
    return turns, (*added, *renamed, *escaped)


def _read_turn(value: object, index: int) -> Turn:
    fields = read_object(value, f"turn {index}")
    role = _ROLES[index % 2]
    found = read_field(fields, "from")
    if found != role:
        raise SampleError(RejectCode.BAD_ROLE, f"turn {index} is from {found!r:.40}, not {role!r}")
    return Turn(
        "human" if index % 2 == 0 else "gpt", check_text(read_field(fields, "value"), f"turn {index}")
    )


def _count(text: str, words: Iterable[str] = _PLACEHOLDERS) -> int:
    return sum(text.count(word) for word in words)


def _check_count(turns: Turns) -> None:
    if any(_count(turn.text) for turn in turns if turn.role == "gpt"):
        raise SampleError(RejectCode.PLACEHOLDER_MISMATCH, "a placeholder stands in an answer")
    number = sum(_count(turn.text) for turn in turns)
    if number > 1:
        raise SampleError(RejectCode.PLACEHOLDER_MISMATCH, f"{number} placeholders for one medium")


def _rename_image_words(turns: Turns) -> tuple[Turns, Repairs]:
    if not any(IMAGE_PLACEHOLDER in turn.text for turn in turns):
        return turns, ()
    renamed = tuple(
        Turn(turn.role, turn.text.replace(IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER)) for turn in turns
    )
    return renamed, (Repair.VIDEO_PLACEHOLDER_RENAMED,)


def _add_missing(turns: Turns, placeholder: str) -> tuple[Turns, Repairs]:
    if any(placeholder in turn.text for turn in turns):
        return turns, ()
    first = Turn("human", f"{placeholder}\n{turns[0].text}")
    return (first, *turns[1:]), (Repair.PLACEHOLDER_ADDED,)


def _escape_words(turns: Turns, words: Iterable[str], code: RejectCode) -> tuple[Turns, Repairs]:
    if not any(_count(turn.text, words) for turn in turns):
        return turns, ()
    for index, turn in enumerate(turns):
        for word in words:
            if turn.role == "human" and _calls_for_medium(turn.text, word):
                raise SampleError(code, f"turn {index} calls for a medium by {word}, the record names none")
    return tuple(Turn(turn.role, _escape(turn.text, words)) for turn in turns), (Repair.PLACEHOLDER_ESCAPED,)


def _calls_for_medium(text: str, word: str) -> bool:
    stripped = text.strip()
    return stripped.startswith(word) or stripped.endswith(f"\n{word}")


def _escape(text: str, words: Iterable[str]) -> str:
    for word in words:
        text = text.replace(word, f"{word[:-1]} >")
    return text
