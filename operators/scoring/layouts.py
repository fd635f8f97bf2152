"""Question files as they are published, to `Question`s: bytes in, no file is opened here.

| benchmark | files | pictures, below the folder that is named |
|---|---|---|
| VQAv2 | questions JSON, annotations JSON | `COCO_val2014_000000000042.jpg` |
| GQA | `testdev_balanced_questions.json` | `IMAGEID.jpg` |
| TextVQA | `TextVQA_0.5.1_val.json` | `IMAGEID.jpg` |
| POPE | `coco_pope_random.json`, `_popular`, `_adversarial`: JSON lines | as named |
| MME | `TASK.txt`: picture, question, answer by tabs | `TASK/` as named |
| ScienceQA | `problems.json` | `SPLIT/ID/image.png` |
| MMBench | a TSV | in the file, base64 |

Prompts are LLaVA-1.5's: what is to know first, a question, its choices by letter, and one line that tells
how to answer. Left out are the words that a text reader found in a picture, which LLaVA-1.5 tells with the
questions of TextVQA: they are not in its question file.
"""

import base64
import binascii
import csv
import io
import sys
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Annotated, Final, TypeVar

import msgspec

from operators.scoring.question import Question, letter_of
from schemas.errors import ConfigError

SHORT: Final = "Answer the question using a single word or phrase."
LETTER: Final = "Answer with the option's letter from the given choices directly."
CIRCLE: Final = 1_000_000
"""MMBench adds this to a question's index for each turn of its choices."""

_Value = TypeVar("_Value")
Identifier = int | str


class _VqaQuestion(msgspec.Struct):
    question_id: int
    image_id: int
    question: str


class _VqaQuestions(msgspec.Struct):
    questions: list[_VqaQuestion]
    data_subtype: str = "val2014"


class _VqaAnswer(msgspec.Struct):
    answer: str


class _VqaAnnotation(msgspec.Struct):
    question_id: int
    answers: list[_VqaAnswer]
    answer_type: str = ""


class _VqaAnnotations(msgspec.Struct):
    annotations: list[_VqaAnnotation]


class _GqaQuestion(msgspec.Struct, rename="camel"):
    image_id: str
    question: str
    answer: str


class _TextVqaQuestion(msgspec.Struct):
    question_id: int
    image_id: str
    question: str
    answers: list[str]


class _TextVqaQuestions(msgspec.Struct):
    data: list[_TextVqaQuestion]


class _PopeQuestion(msgspec.Struct):
    question_id: Identifier
    image: str
    text: str
    label: str


class _Problem(msgspec.Struct):
    question: str
    choices: Annotated[list[str], msgspec.Meta(min_length=1, max_length=26)]
    answer: int
    split: str
    hint: str = ""
    image: str | None = None
    subject: str = ""


_VQA_QUESTIONS: Final = msgspec.json.Decoder(_VqaQuestions)
_VQA_ANNOTATIONS: Final = msgspec.json.Decoder(_VqaAnnotations)
_GQA: Final = msgspec.json.Decoder(dict[str, _GqaQuestion])
_TEXT_VQA: Final = msgspec.json.Decoder(_TextVqaQuestions)
_POPE: Final = msgspec.json.Decoder(_PopeQuestion)
_SCIENCE_QA: Final = msgspec.json.Decoder(dict[str, _Problem])


def read_vqa(questions: bytes, annotations: bytes) -> list[Question]:
    """VQAv2.

    Raises:
        ConfigError: a file is not of this layout, or a question has no annotation.
    """
    asked = _decode(questions, _VQA_QUESTIONS, "VQAv2 questions")
    found = _decode(annotations, _VQA_ANNOTATIONS, "VQAv2 annotations")
    by_id = {one.question_id: one for one in found.annotations}
    missing = [one.question_id for one in asked.questions if one.question_id not in by_id]
    if missing:
        raise ConfigError(f"{len(missing)} VQAv2 questions have no annotation, the first is {missing[0]}")
    return [
        Question(
            question_id=str(one.question_id),
            prompt=f"{one.question}\n{SHORT}",
            image=f"COCO_{asked.data_subtype}_{one.image_id:012d}.jpg",
            answers=tuple(given.answer for given in by_id[one.question_id].answers),
            category=by_id[one.question_id].answer_type,
        )
        for one in asked.questions
    ]


def read_gqa(questions: bytes) -> list[Question]:
    """GQA.

    Raises:
        ConfigError: the file is not of this layout.
    """
    return [
        Question(
            question_id=key,
            prompt=f"{one.question}\n{SHORT}",
            image=f"{one.image_id}.jpg",
            answers=(one.answer,),
        )
        for key, one in _decode(questions, _GQA, "GQA").items()
    ]


def read_text_vqa(questions: bytes) -> list[Question]:
    """TextVQA.

    Raises:
        ConfigError: the file is not of this layout.
    """
    return [
        Question(
            question_id=str(one.question_id),
            prompt=f"{one.question}\n{SHORT}",
            image=f"{one.image_id}.jpg",
            answers=tuple(one.answers),
        )
        for one in _decode(questions, _TEXT_VQA, "TextVQA").data
    ]


def read_pope(part: str, lines: bytes) -> list[Question]:
    """One part of POPE, which its file is named by: random, popular or adversarial.

    Raises:
        ConfigError: a line is not of this layout.
    """
    return [
        Question(
            question_id=f"{part}-{one.question_id}",
            prompt=f"{one.text}\n{SHORT}",
            image=one.image,
            answers=(one.label,),
            category=part,
        )
        for one in (_decode(line, _POPE, "POPE") for line in lines.splitlines() if line.strip())
    ]


def read_mme(task: str, table: bytes) -> list[Question]:
    """One task of MME; its lines end with a line feed and nothing else, whatever a question holds.

    Raises:
        ConfigError: a line has no three columns, or no yes or no.
    """
    questions: list[Question] = []
    for number, line in enumerate(io.StringIO(_text_of(table, "MME")), start=1):
        columns = line.split("\t")
        if len(columns) != 3 or columns[2].strip().lower() not in ("yes", "no"):
            raise ConfigError(f"MME {task}, line {number} is no picture, question, yes or no: {line[:80]!r}")
        image, question, answer = columns
        questions.append(
            Question(
                question_id=f"{task}-{number}",
                prompt=f"{question.removesuffix(' Please answer yes or no.')}\n{SHORT}",
                image=f"{task}/{image}",
                answers=(answer.strip(),),
                category=task,
                group=image,
            )
        )
    return questions


def read_science_qa(problems: bytes, split: str = "test") -> list[Question]:
    """A split of ScienceQA, those without a picture among it.

    Raises:
        ConfigError: the file is not of this layout, or has nothing of that split.
    """
    found = _decode(problems, _SCIENCE_QA, "ScienceQA")
    chosen = {key: one for key, one in found.items() if one.split == split}
    if not chosen:
        raise ConfigError(f"ScienceQA: no problem of the split {split}")
    wrong = [key for key, one in chosen.items() if not 0 <= one.answer < len(one.choices)]
    if wrong:
        raise ConfigError(f"ScienceQA: problem {wrong[0]} has no choice of the number of its answer")
    return [
        Question(
            question_id=key,
            prompt=_ask_choice([one.hint and f"Context: {one.hint}", one.question], one.choices),
            image=f"{split}/{key}/{one.image}" if one.image else None,
            answers=(letter_of(one.answer),),
            choices=tuple(one.choices),
            category=one.subject,
        )
        for key, one in chosen.items()
    ]


def read_mmbench(table: bytes) -> list[Question]:
    """MMBench.

    Raises:
        ConfigError: it is no table, lacks a column, or has a row without picture or without a right choice.
    """
    with _long_cells():
        rows = csv.DictReader(io.StringIO(_text_of(table, "MMBench")), delimiter="\t")
        missing = {"index", "question", "answer", "image", "A", "B"} - set(rows.fieldnames or ())
        if missing:
            raise ConfigError(f"MMBench: the table has no column {', '.join(sorted(missing))}")
        return [_read_mmbench_row(row) for row in rows]


def _read_mmbench_row(row: dict[str, str | None]) -> Question:
    index, answer = str(row["index"]), str(row["answer"])
    choices = _take_choices(row)
    if not index.isdecimal() or answer not in map(letter_of, range(len(choices))):
        raise ConfigError(f"MMBench: the row {index[:20]} has no number, or no answer among its choices")
    try:
        picture = base64.b64decode(row["image"] or "", validate=True)
    except binascii.Error as error:
        raise ConfigError(f"MMBench: the picture of row {index} is no base64: {error}") from error
    hint = "" if row.get("hint") in (None, "nan") else str(row["hint"])
    return Question(
        question_id=index,
        prompt=_ask_choice([hint, str(row["question"])], choices),
        image_bytes=picture,
        answers=(answer,),
        choices=tuple(choices),
        category=row.get("category") or "",
        group=str(int(index) % CIRCLE),
    )


def _take_choices(row: dict[str, str | None]) -> list[str]:
    cells = (row.get(letter) for letter in "ABCD")
    return [cell for cell in cells if cell and cell != "nan"]


def _ask_choice(lines: Iterable[str], choices: Sequence[str]) -> str:
    options = [f"{letter_of(place)}. {text}" for place, text in enumerate(choices)]
    return "\n".join([*filter(None, lines), *options, LETTER])


def _decode(data: bytes, decoder: msgspec.json.Decoder[_Value], name: str) -> _Value:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError(f"this is no file of {name} as it is published: {error}") from error


def _text_of(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"this is no file of {name} as it is published: {error}") from error


@contextmanager
def _long_cells() -> Generator[None]:
    """Pictures are longer than the library lets a cell be."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    except csv.Error as error:
        raise ConfigError(f"this is no file of MMBench as it is published: {error}") from error
    finally:
        csv.field_size_limit(before)
