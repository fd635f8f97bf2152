"""A checkpoint's answers to a benchmark's questions: which pictures they need, and what is asked together.

Pictures are looked for before anything is answered: one that is missing ends the run, so that no score is
that of a part. A `Responder` answers in batches, picture by picture, so that each is encoded once; answers
come in the order of the questions. Leaves out several pictures a question, and clips.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from operators.scoring import Question
from pipelines.engine import Progress, no_progress
from pipelines.evaluate.responder import Asked, AskedMedium, Responder
from pipelines.train.checkpoint import Checkpoint
from schemas.errors import ConfigError
from schemas.record import MediumKind

BATCH_SIZE: Final = 16


def answer_questions(
    checkpoint: Checkpoint,
    questions: Sequence[Question],
    pictures: Path | None,
    *,
    encoder: str | None = None,
    max_new_tokens: int = 16,
    progress: Progress = no_progress,
) -> list[str]:
    """The answers, in the order of the questions.

    Args:
        checkpoint: who answers.
        questions: of a benchmark.
        pictures: the folder that the questions' paths start from; None: pictures stand in the question file.
        encoder: where the encoder is now, if it moved.
        max_new_tokens: length of an answer, at most.
        progress: told how far it is.

    Raises:
        ConfigError: a picture is missing.
        MismatchError: this machine would make other features than the checkpoint was trained on.
        SampleError: a picture does not decode.
    """
    check_pictures(questions, pictures)
    responder = Responder(checkpoint, encoder)
    answers: dict[int, str] = {}
    for batch in deal_questions(questions):
        asked = [_ask(questions[place], pictures) for place in batch]
        texts = responder.answer(asked, max_new_tokens, batch_size=BATCH_SIZE)
        answers.update(zip(batch, texts, strict=True))
        progress("questions", len(answers), len(questions))
    return [answers[place] for place in range(len(questions))]


def check_pictures(questions: Sequence[Question], pictures: Path | None) -> None:
    """See that every picture is there.

    Raises:
        ConfigError: it is not, the message counts them and names the first; or a folder is named for nothing.
    """
    if pictures is not None and all(question.image_bytes is not None for question in questions):
        raise ConfigError("all pictures stand in the question file; leave --pictures out")
    named = sorted({question.image for question in questions if question.image is not None})
    if named and pictures is None:
        raise ConfigError(
            f"the questions name pictures such as {named[0]}; tell their folder with --pictures"
        )
    missing = [name for name in named if pictures is not None and not (pictures / name).is_file()]
    if missing:
        raise ConfigError(
            f"{len(missing)} of {len(named)} pictures are not in {pictures}, the first is {missing[0]}"
        )


def deal_questions(questions: Sequence[Question]) -> list[list[int]]:
    """Batches of places: questions with a picture, those of one picture together; then those without."""
    keys = [_picture_key(question) for question in questions]
    seeing = sorted((place for place, key in enumerate(keys) if key), key=lambda place: (keys[place], place))
    blind = [place for place, key in enumerate(keys) if not key]
    return [
        group[start : start + BATCH_SIZE]
        for group in (seeing, blind)
        for start in range(0, len(group), BATCH_SIZE)
    ]


def _picture_key(question: Question) -> str:
    """Equal for equal pictures; empty where there is none."""
    if question.image_bytes is not None:
        return hashlib.sha256(question.image_bytes).hexdigest()
    return question.image or ""


def _ask(question: Question, pictures: Path | None) -> Asked:
    data = question.image_bytes
    if question.image is None and data is None:
        return Asked(question.prompt)
    if data is None:
        data = ((pictures or Path()) / (question.image or "")).read_bytes()
    name = question.image or f"the picture of question {question.question_id}"
    return Asked(question.prompt, (AskedMedium(MediumKind.IMAGE, data, name),))
