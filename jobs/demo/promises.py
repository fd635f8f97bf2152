"""What the demo promises, checked at its end: one that trained without learning has failed.

A model that ignores the pictures passes by luck in less than one run of a hundred (binomial test). The seeds
are fixed, so a demo that passes on a machine passes there again.
"""

from collections.abc import Iterator, Mapping, Sequence

from jobs.demo.heldout_answers import HeldoutResult, tail_probability
from jobs.training import TrainingResult
from schemas.corpus import SourceTotals
from schemas.errors import WorkError

MIN_QUESTIONS = 200
MIN_TIMES_CHANCE = 2.0
SIGNIFICANCE = 0.01

RejectCounts = Mapping[str, Mapping[str, int]]
"""By source, then by code."""


def check_promises(
    planted: RejectCounts,
    sources: Sequence[SourceTotals],
    trained: Sequence[TrainingResult],
    answers: HeldoutResult,
) -> None:
    """Compare what came out with what the demo is there to show.

    Raises:
        WorkError: naming every promise that was broken.
    """
    broken = [
        *_check_records(planted, sources),
        *_check_losses(trained),
        *_check_answers(answers),
    ]
    if broken:
        raise WorkError(f"the demo ran, but did not do what it promises: {'; '.join(broken)}")


def _check_records(planted: RejectCounts, sources: Sequence[SourceTotals]) -> Iterator[str]:
    for name in sorted(planted.keys() - {source.name for source in sources}):
        yield f"{name}: the corpus has no such source"
    for source in sources:
        if source.read != source.written + source.rejected:
            yield f"{source.name}: read {source.read} is not {source.written} + {source.rejected}"
        expected = dict(planted.get(source.name, {}))
        if source.rejects != expected:
            yield f"{source.name}: rejected {source.rejects}, the planted faults are {expected}"


def _check_losses(trained: Sequence[TrainingResult]) -> Iterator[str]:
    for stage, result in enumerate(trained, 1):
        if not result.last_loss < result.first_loss:
            yield f"stage {stage}: the loss did not fall, {result.first_loss:.3f} -> {result.last_loss:.3f}"


def _check_answers(answers: HeldoutResult) -> Iterator[str]:
    asked, chance = answers.num_questions, answers.chance
    if asked < MIN_QUESTIONS:
        yield f"{asked} held-out questions were asked, {MIN_QUESTIONS} are needed"
    by_chance = tail_probability(answers.num_right, asked, chance)
    if answers.accuracy < MIN_TIMES_CHANCE * chance or by_chance >= SIGNIFICANCE:
        yield (
            f"{answers.num_right} of {asked} answers are right, {MIN_TIMES_CHANCE:g} times the chance "
            f"of {chance:.3f} are needed (p = {by_chance:.2g})"
        )
    shuffled_by_chance = tail_probability(answers.num_right_shuffled, asked, chance)
    if shuffled_by_chance <= SIGNIFICANCE:
        yield (
            f"{answers.num_right_shuffled} of {asked} answers are right with shuffled pictures, more than "
            f"the chance of {chance:.3f} (p = {shuffled_by_chance:.2g}): the questions give answers away"
        )
