"""Single annotation rows, with the habits of the published sets.

A writer makes row `number` of a set over a stock of so many media; numbers of different sets do not meet.
What is said is made up (`text_pool`), its amount and shape are those of the real files. Faults are real ones,
too, each with the code that ingest has to give it, so that a run can be checked against what was planted.
"""

from collections.abc import Callable
from typing import Final

from jobs.bench.text_pool import TextPool, mix
from schemas.errors import RejectCode
from schemas.record import IMAGE_PLACEHOLDER

Row = dict[str, object]
RowWriter = Callable[[TextPool, int, int], Row]
"""Pool, number of the row, size of the stock of media -> row."""

_IMAGE_FOLDERS: Final = (
    ("coco/train2017", 12),
    ("gqa/images", 7),
    ("vg/VG_100K", 7),
    ("ocr_vqa/images", 9),
)
"""Folders of mix665k, and how many digits the names in them have."""


def write_caption(pool: TextPool, number: int, num_media: int) -> Row:
    """Like the 558K captions: one short request and answer, the placeholder before or behind it."""
    name = f"{mix(number) % num_media:09d}"
    request = pool.cut(number, 40)
    question = f"{request}\n{IMAGE_PLACEHOLDER}" if number % 2 else f"{IMAGE_PLACEHOLDER}\n{request}"
    return {
        "id": name,
        "image": f"{name[-5:]}/{name}.jpg",
        "conversations": [*say(question, pool.cut(number + 1, 60))],
    }


def write_instruction(pool: TextPool, number: int, num_media: int) -> Row:
    """Like mix665k: one to nine rounds, pictures that several rows talk about, ids of two types."""
    place = mix(number)
    picture = place % num_media
    folder, digits = _IMAGE_FOLDERS[picture % len(_IMAGE_FOLDERS)]
    return {
        "id": picture if place % 7 == 0 else f"{picture:012d}",
        "image": f"{folder}/{picture:0{digits}d}.jpg",
        "conversations": talk(pool, number, 1 + place % 9, 60, 140, IMAGE_PLACEHOLDER),
    }


def write_text_talk(pool: TextPool, number: int, num_media: int) -> Row:
    """Like the end of mix665k: longer talk, no picture."""
    return {
        "id": f"{mix(number):012x}_{num_media % 2}",
        "model": "",
        "conversations": talk(pool, number, 3, 120, 500),
    }


def write_video_answer(pool: TextPool, number: int, num_media: int) -> Row:
    """Like VideoInstruct100K: a question and an answer about a clip; every twelfth answer leaks a label."""
    leak = "\nQA_GT_caption_based_noisy" if number % 12 == 0 else ""
    return {
        "q": pool.cut(number + 1, 60),
        "a": pool.cut(number, 260) + leak,
        "video_id": f"v_{mix(mix(number) % num_media):016x}"[:13],
    }


def write_extra(pool: TextPool, number: int, num_media: int) -> Row:
    """Like the open mixtures: nested names, two rounds, fields that nobody reads."""
    picture = mix(number) % num_media
    subset = f"set_{picture % 7}"
    name = f"cauldron/{subset}/images/{subset}.{picture:08d}.png"
    return {
        "id": name,
        "image": name,
        "conversations": talk(pool, number, 2, 150, 520, IMAGE_PLACEHOLDER),
        "data_source": f"{subset}(cauldron)",
    }


def talk(
    pool: TextPool, number: int, num_rounds: int, question_chars: int, answer_chars: int, medium: str = ""
) -> list[Row]:
    """A conversation of so many rounds, the word for a medium before its first question."""
    turns: list[Row] = []
    for index in range(num_rounds):
        place = mix(number + index)
        question = pool.cut(place, question_chars)
        if medium and not index:
            question = f"{medium}\n{question}"
        turns += say(question, pool.cut(place + 1, answer_chars))
    return turns


def say(question: str, answer: str) -> tuple[Row, Row]:
    """A question and its answer."""
    return {"from": "human", "value": question}, {"from": "gpt", "value": answer}


def _leave_unanswered(row: Row) -> Row:
    return row | {"conversations": [{"from": "human", "value": "Why?"}]}


def _lose_picture(row: Row) -> Row:
    return row | {"image": None, "conversations": [*say(f"{IMAGE_PLACEHOLDER}\nWhy?", "Because.")]}


def _begin_with_answer(row: Row) -> Row:
    return row | {"conversations": [{"from": "gpt", "value": "It begins with an answer."}]}


def _number_id_by_half(row: Row) -> Row:
    return row | {"id": 1.5}


def _say_nothing(row: Row) -> Row:
    nothing: list[Row] = []
    return row | {"conversations": nothing}


def _forget_answer(row: Row) -> Row:
    return {key: value for key, value in row.items() if key != "a"}


def _blank_question(row: Row) -> Row:
    return row | {"q": " "}


Fault = tuple[RejectCode, Callable[[Row], Row]]
TALK_FAULTS: Final[tuple[Fault, ...]] = (
    (RejectCode.EMPTY_CONVERSATION, _say_nothing),
    (RejectCode.PLACEHOLDER_WITHOUT_MEDIUM, _lose_picture),
    (RejectCode.BAD_ROLE, _begin_with_answer),
    (RejectCode.BAD_TYPE, _number_id_by_half),
    (RejectCode.EMPTY_ANSWER, _leave_unanswered),
)
"""What goes wrong in LLaVA-style rows."""
ANSWER_FAULTS: Final[tuple[Fault, ...]] = (
    (RejectCode.MISSING_FIELD, _forget_answer),
    (RejectCode.EMPTY_QUESTION, _blank_question),
)
"""What goes wrong in rows of question and answer."""
