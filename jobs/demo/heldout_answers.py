"""The trained demo model is asked what it has never seen, with the right pictures and with shuffled ones.

An answer is right when it equals the expected one. Chance is one over the number of candidates, averaged
over the questions. With shuffled pictures (each question gets that of another one of its kind) the model can
use nothing but the question: an accuracy above chance there would mean that questions give answers away.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path

import msgspec

from jobs.console import Reporter
from jobs.demo.layouts import HeldoutRecord
from operators.batch import MediumFeatures, TrainingExample
from pipelines.featurize.single import MediumEncoder
from pipelines.stream.selection import select_features
from pipelines.train.answer import answer
from pipelines.train.assembly import Assembly, restore
from pipelines.train.checkpoint import open_checkpoint
from schemas.record import MediumKind, Turn
from schemas.stream import DataConfig
from schemas.training import RunConfig

BATCH_SIZE = 16
MAX_NEW_TOKENS = 8


@dataclass(frozen=True, slots=True)
class HeldoutQuestion:
    """A question, the answer that is true, and the features of its medium."""

    kind: str
    turns: tuple[Turn, ...]
    expected: str
    num_candidates: int
    medium: MediumFeatures


@dataclass(frozen=True, slots=True)
class HeldoutResult:
    """How many answers were right, with the right pictures and with shuffled ones."""

    num_questions: int
    num_right: int
    num_right_shuffled: int
    chance: float
    by_kind: dict[str, tuple[int, int, int]]
    """Right answers, questions, and candidates of each."""

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.num_right / self.num_questions

    @property
    def accuracy_shuffled(self) -> float:
        """The same with shuffled pictures."""
        return self.num_right_shuffled / self.num_questions

    def lines(self) -> list[str]:
        """The result in words."""
        kinds = ", ".join(
            f"{kind} {right}/{asked} (chance {asked / candidates:.0f})"
            for kind, (right, asked, candidates) in sorted(self.by_kind.items())
        )
        p_value = tail_probability(self.num_right, self.num_questions, self.chance)
        return [
            f"held-out questions: {self.num_right} of {self.num_questions} right "
            f"({100 * self.accuracy:.0f} %; chance {100 * self.chance:.0f} %, p = {p_value:.1g}); "
            f"with shuffled pictures {100 * self.accuracy_shuffled:.0f} %",
            f"  by kind: {kinds}",
        ]

    def values(self) -> dict[str, object]:
        """The result as plain values."""
        return {
            "questions": self.num_questions,
            "right": self.num_right,
            "right_shuffled": self.num_right_shuffled,
            "chance": self.chance,
            "by_kind": {kind: list(counts) for kind, counts in self.by_kind.items()},
        }


def ask_heldout(checkpoint: Path, folder: Path, reporter: Reporter) -> HeldoutResult:
    """Answer the questions of `folder/heldout.json` with a trained checkpoint."""
    opened = open_checkpoint(checkpoint)
    assembly = restore(opened, to_train=False)
    encoder = MediumEncoder(opened.state.identity.spec, opened.state.identity.encoder)
    questions = read_questions(folder, encoder, opened.config.data, reporter)
    media = [question.medium for question in questions]
    answers = ask(assembly, opened.config.run, questions, media, reporter, "held-out questions")
    shuffled = ask(
        assembly, opened.config.run, questions, shuffle_media(questions), reporter, "shuffled pictures"
    )
    by_kind: dict[str, tuple[int, int, int]] = {}
    for question, text in zip(questions, answers, strict=True):
        right, asked, _ = by_kind.get(question.kind, (0, 0, 0))
        right += text == question.expected
        by_kind[question.kind] = (right, asked + 1, question.num_candidates)
    return HeldoutResult(
        num_questions=len(questions),
        num_right=count_right(questions, answers),
        num_right_shuffled=count_right(questions, shuffled),
        chance=sum(1 / question.num_candidates for question in questions) / len(questions),
        by_kind=by_kind,
    )


def read_questions(
    folder: Path, encoder: MediumEncoder, data: DataConfig, reporter: Reporter
) -> list[HeldoutQuestion]:
    """The questions; each medium is encoded once, and seen as in training."""
    records = msgspec.json.decode((folder / "heldout.json").read_bytes(), type=list[HeldoutRecord])
    encoded: dict[str, MediumFeatures] = {}
    questions: list[HeldoutQuestion] = []
    for number, record in enumerate(records, 1):
        kind = MediumKind.IMAGE if isinstance(record.image, str) else MediumKind.VIDEO
        path = str(record.image if kind is MediumKind.IMAGE else record.video)
        if path not in encoded:
            features = encoder.encode((folder / path).read_bytes(), kind)
            encoded[path] = select_features(features, data.views, data.frames)
        question, expected = record.conversations
        turns = (Turn("human", question.value),)
        questions.append(
            HeldoutQuestion(record.kind, turns, expected.value, len(record.candidates), encoded[path])
        )
        reporter("encode held-out media", number, len(records))
    return questions


def shuffle_media(questions: Sequence[HeldoutQuestion]) -> list[MediumFeatures]:
    """For each question the medium of another one of its kind: nothing but the picture is wrong."""
    media: list[MediumFeatures] = []
    for question in questions:
        others = [other.medium for other in questions if other.kind == question.kind]
        distinct = list({id(medium): medium for medium in others}.values())
        place = next(index for index, medium in enumerate(distinct) if medium is question.medium)
        media.append(distinct[(place + 1 + len(distinct) // 2) % len(distinct)])
    return media


def ask(
    assembly: Assembly,
    run: RunConfig,
    questions: Sequence[HeldoutQuestion],
    media: Sequence[MediumFeatures],
    reporter: Reporter,
    stage: str,
) -> list[str]:
    """The model's answers, in the order of the questions; pictures and clips are asked apart."""
    num_views = [medium.patches.shape[1] for medium in media]
    answers: dict[int, str] = {}
    for views in sorted(set(num_views)):
        chosen = [index for index in range(len(questions)) if num_views[index] == views]
        for start in range(0, len(chosen), BATCH_SIZE):
            batch = chosen[start : start + BATCH_SIZE]
            examples = [
                TrainingExample(str(index), "heldout", questions[index].turns, (media[index],))
                for index in batch
            ]
            answers.update(zip(batch, answer(assembly, examples, MAX_NEW_TOKENS, run), strict=True))
            reporter(stage, len(answers), len(questions))
    return [answers[index] for index in range(len(questions))]


def count_right(questions: Sequence[HeldoutQuestion], answers: Sequence[str]) -> int:
    """Answers that equal the expected one."""
    return sum(question.expected == text for question, text in zip(questions, answers, strict=True))


def tail_probability(num_right: int, num_asked: int, chance: float) -> float:
    """How likely so many right answers or more are by chance alone: the upper tail of the binomial."""
    return sum(
        comb(num_asked, right) * chance**right * (1 - chance) ** (num_asked - right)
        for right in range(num_right, num_asked + 1)
    )
