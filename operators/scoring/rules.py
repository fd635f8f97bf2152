"""Scores of answers: one rule a benchmark, each a pure function of questions and answers in the same order.

Sources: VQAv2 and TextVQA, the VQA challenge's accuracy (Agrawal et al. 2016, section 5); GQA (Hudson and
Manning 2019), equality; POPE (Li et al. 2023, section 4), with the reading of yes and no that LLaVA-1.5
publishes, whose 85.9 is the mean of three F1s; MME (Fu et al. 2023, section 2.2), accuracy and accuracy+,
LLaVA-1.5's 1510.7 being perception alone; ScienceQA (Lu et al. 2022) with LLaVA's reading of letters, by an
expression whose period stands for any character; MMBench (Liu et al. 2023, section 4), circular evaluation.
MMBench as published asks a language model to read answers that are no letter; here a letter or a choice's own
words count, and the rest is wrong and counted as unread.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Final

from operators.scoring.question import Question, Score, letter_of, share_of
from operators.scoring.written import agree_with_people, process_answer, tidy_spaces

Rule = Callable[[Sequence[Question], Sequence[str]], Score]

MME_COGNITION: Final = frozenset(
    {"commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"}
)
_THE_ANSWER: Final = re.compile(r"The answer is ([A-Z]).")
_MOST_CHOICES: Final = 5
"""Of a problem of ScienceQA: more letters are none to the published reading."""
_MARKS: Final = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_LONG_ANSWER_WORDS: Final = 3
"""In more words than that, a lone A is an article."""


def score_vqa(questions: Sequence[Question], answers: Sequence[str]) -> Score:
    """VQAv2: agreement with ten people; where all wrote the same, words are compared as they stand."""
    return _score_agreement(questions, answers, is_always_processed=False)


def score_text_vqa(questions: Sequence[Question], answers: Sequence[str]) -> Score:
    """TextVQA: the same agreement, every answer processed."""
    return _score_agreement(questions, answers, is_always_processed=True)


def score_gqa(questions: Sequence[Question], answers: Sequence[str]) -> Score:
    """GQA: the very word, without capitals and a last period."""
    right = [
        answer.strip().rstrip(".").lower() == question.answers[0].lower()
        for question, answer in zip(questions, answers, strict=True)
    ]
    return Score(overall=share_of(right), parts=_by_category(questions, right), num_questions=len(questions))


def score_pope(questions: Sequence[Question], answers: Sequence[str]) -> Score:
    """POPE: F1 of `yes`, accuracy, precision, recall and the share of `yes`; means over the parts asked."""
    pairs: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    for question, answer in zip(questions, answers, strict=True):
        pairs[question.category].append((_reads_yes(answer), question.answers[0].lower() == "yes"))
    found = {part: _measure_yes(values) for part, values in sorted(pairs.items())}
    means = {
        name: sum(one[name] for one in found.values()) / len(found)
        for name in ("F1", "accuracy", "precision", "recall", "yes")
        if found
    }
    f1_of_parts = {f"F1 of {part}": one["F1"] for part, one in found.items() if part}
    overall = means.pop("F1", 0.0)
    return Score(overall=overall, parts=f1_of_parts | means, num_questions=len(questions))


def score_mme(questions: Sequence[Question], answers: Sequence[str]) -> Score:
    """MME: of each task accuracy and accuracy+ (both questions of a picture), summed over perception's tasks.

    Papers print that sum; that of cognition stands beside it, and is `overall` where nothing else was asked.
    """
    read = [_read_mme(answer) for answer in answers]
    right = [found == question.answers[0].lower() for question, found in zip(questions, read, strict=True)]
    tasks: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for question, is_right in zip(questions, right, strict=True):
        tasks[question.category][question.group].append(is_right)
    parts: dict[str, float] = {}
    for task, pictures in tasks.items():
        single = [is_right for group in pictures.values() for is_right in group]
        parts[task] = share_of(single) + share_of([all(group) for group in pictures.values()])
    cognition = sum((score for task, score in parts.items() if task in MME_COGNITION), start=0.0)
    perception = sum((score for task, score in parts.items() if task not in MME_COGNITION), start=0.0)
    return Score(
        overall=cognition if MME_COGNITION.issuperset(parts) else perception,
        parts=parts | {"perception": perception, "cognition": cognition},
        num_questions=len(questions),
        num_unread=sum(found == "other" for found in read),
    )


def score_science_qa(questions: Sequence[Question], answers: Sequence[str]) -> Score:
    """ScienceQA: accuracy; of questions with a picture by itself."""
    read = [
        _read_letter(answer, len(question.choices))
        for question, answer in zip(questions, answers, strict=True)
    ]
    right = [found == question.answers[0] for question, found in zip(questions, read, strict=True)]
    with_picture = [
        is_right for question, is_right in zip(questions, right, strict=True) if question.image is not None
    ]
    return Score(
        overall=share_of(right),
        parts={"with a picture": share_of(with_picture)} | _by_category(questions, right),
        num_questions=len(questions),
        num_unread=sum(found is None for found in read),
    )


def score_mmbench(questions: Sequence[Question], answers: Sequence[str]) -> Score:
    """MMBench: a question counts when it is right in every order of its choices."""
    read = [
        read_choice(answer, question.choices) for question, answer in zip(questions, answers, strict=True)
    ]
    groups: dict[str, list[bool]] = defaultdict(list)
    categories: dict[str, str] = {}
    for question, found in zip(questions, read, strict=True):
        groups[question.group].append(found == question.answers[0])
        categories.setdefault(question.group, question.category)
    circular = {group: all(rounds) for group, rounds in groups.items()}
    parts = {
        name: share_of([right for group, right in circular.items() if categories[group] == name])
        for name in sorted(set(categories.values()))
    }
    single = share_of([right for rounds in groups.values() for right in rounds])
    return Score(
        overall=share_of(list(circular.values())),
        parts={"one order at a time": single} | parts,
        num_questions=len(questions),
        num_unread=sum(found is None for found in read),
    )


def read_choice(answer: str, choices: Sequence[str]) -> str | None:
    """The letter that an answer names, alone or among other words; or the one whose text stands in it."""
    words = answer.translate(_MARKS).split()
    named = [letter_of(place) for place in range(len(choices)) if letter_of(place) in words]
    if len(named) == 1 and not (named == ["A"] and len(words) > _LONG_ANSWER_WORDS):
        return named[0]
    lowered = answer.lower()
    told = [letter_of(place) for place, text in enumerate(choices) if text and text.lower() in lowered]
    return told[0] if len(told) == 1 and not named else None


def _score_agreement(
    questions: Sequence[Question], answers: Sequence[str], *, is_always_processed: bool
) -> Score:
    shares: list[float] = []
    by_category: dict[str, list[float]] = defaultdict(list)
    for question, answer in zip(questions, answers, strict=True):
        people = tuple(tidy_spaces(given) for given in question.answers)
        said = tidy_spaces(answer)
        if is_always_processed or len(set(people)) > 1:
            people, said = tuple(map(process_answer, people)), process_answer(said)
        shares.append(agree_with_people(said, people))
        by_category[question.category].append(shares[-1])
    parts = {name: _mean_percent(values) for name, values in sorted(by_category.items()) if name}
    return Score(overall=_mean_percent(shares), parts=parts, num_questions=len(questions))


def _measure_yes(pairs: Sequence[tuple[bool, bool]]) -> dict[str, float]:
    """Percents of (whether it was said, whether it is true)."""
    hits = sum(is_said and is_true for is_said, is_true in pairs)
    num_said, num_true = (sum(flags) for flags in zip(*pairs, strict=True))
    return {
        "F1": 200 * hits / (num_said + num_true) if hits else 0.0,
        "accuracy": share_of([is_said == is_true for is_said, is_true in pairs]),
        "precision": 100 * hits / num_said if num_said else 0.0,
        "recall": 100 * hits / num_true if num_true else 0.0,
        "yes": 100 * num_said / len(pairs),
    }


def _reads_yes(answer: str) -> bool:
    """By the first sentence: `no` and `not` are no, everything else is yes."""
    words = answer.partition(".")[0].replace(",", "").split(" ")
    return not {"No", "no", "not"} & set(words)


def _read_mme(answer: str) -> str:
    """By the first four characters, as the benchmark's tool reads."""
    first = answer.strip().lower()[:4]
    if "yes" in first:
        return "yes"
    return "no" if "no" in first else "other"


def _read_letter(answer: str, num_choices: int) -> str | None:
    """A letter alone; one in front, with period and space; one `The answer is X` and a character after it."""
    letters = [letter_of(place) for place in range(max(num_choices, _MOST_CHOICES))]
    answer = answer.strip()
    found: list[str] = _THE_ANSWER.findall(answer)
    if answer in letters or (answer[:1] in letters and answer[1:3] == ". "):
        found = [answer[0]]
    return found[0] if len(found) == 1 and found[0] in letters[:num_choices] else None


def _by_category(questions: Sequence[Question], right: Sequence[bool]) -> dict[str, float]:
    flags: dict[str, list[bool]] = defaultdict(list)
    for question, is_right in zip(questions, right, strict=True):
        flags[question.category].append(is_right)
    return {name: share_of(values) for name, values in sorted(flags.items()) if name}


def _mean_percent(shares: list[float]) -> float:
    return 100 * sum(shares) / len(shares) if shares else 0.0


RULES: Final[dict[str, Rule]] = {
    "vqav2": score_vqa,
    "gqa": score_gqa,
    "textvqa": score_text_vqa,
    "pope": score_pope,
    "mme": score_mme,
    "scienceqa": score_science_qa,
    "mmbench": score_mmbench,
}
"""By the benchmark's name."""
