"""Scoring rules on cases worked out by hand."""

import pytest

from operators.scoring import Question
from operators.scoring.rules import (
    RULES,
    read_choice,
    score_gqa,
    score_mmbench,
    score_mme,
    score_pope,
    score_science_qa,
    score_text_vqa,
    score_vqa,
)
from operators.scoring.written import agree_with_people, process_answer


def ask(*answers: str, **fields: object) -> Question:
    return Question(**({"question_id": "q", "prompt": "?", "answers": answers} | fields))


@pytest.mark.parametrize(
    ("written", "compared"),
    [
        ("The Cat.", "cat"),
        ("two", "2"),
        ("None", "0"),
        ("it is 3.5 m.", "it is 3.5 m"),
        ("dont", "don't"),
        ("whats  up?", "what's up"),
        ("red/blue", "red blue"),
        ("red, blue", "red blue"),
        ("1,000", "1000"),
        ("a\nb\tc", "b c"),
        ("well", "well"),
        ("don't", "don't"),
        ("An apple and the ten pears!", "apple and 10 pears"),
    ],
)
def test_answers_are_processed(written: str, compared: str) -> None:
    assert process_answer(written) == compared


@pytest.mark.parametrize(("agreeing", "score"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_agreement_leaves_each_person_out(agreeing: int, score: float) -> None:
    """Of ten: with 3 agreeing, seven times 3/3 and three times 2/3 make 0.9."""
    people = ("yes",) * agreeing + ("no",) * (10 - agreeing)
    assert agree_with_people("yes", people) == pytest.approx(score)


def test_vqa_processes_only_where_people_differ() -> None:
    same, different = ask(*["the dog"] * 10), ask(*["the dog"] * 9, "cat")
    assert score_vqa([same], ["dog"]).overall == 0
    assert score_vqa([different], ["dog"]).overall == 100
    assert score_text_vqa([same], ["dog"]).overall == 100
    assert score_vqa([same], [" the dog\n"]).overall == 100


def test_vqa_by_kind_of_answer() -> None:
    questions = [ask(*["2"] * 10, category="number"), ask(*["no"] * 3, *["yes"] * 7, category="yes/no")]
    score = score_vqa(questions, ["two", "no"])
    assert score.parts == {"number": 0, "yes/no": pytest.approx(90)}
    assert score.overall == pytest.approx(45)


def test_gqa_takes_the_very_word() -> None:
    questions = [ask("yes"), ask("light blue"), ask("cat"), ask("cat")]
    assert score_gqa(questions, ["Yes.", "light blue", "a cat", "cats"]).overall == 50


def test_pope_by_hand() -> None:
    """Two hits, one false alarm, one miss, one rightly denied."""
    questions = [ask("yes"), ask("yes"), ask("no"), ask("yes"), ask("no")]
    score = score_pope(questions, ["Yes", "Yes, it is. No doubt.", "There is one", "No, none", "not here"])
    assert score.parts == pytest.approx({"accuracy": 60, "precision": 200 / 3, "recall": 200 / 3, "yes": 60})
    assert score.overall == pytest.approx(200 / 3)
    assert score_pope([ask("yes")], ["no"]).overall == 0


def test_pope_is_the_mean_of_its_parts() -> None:
    """F1 of 2/3 (one hit, one miss) and of 4/5 (two hits, one false alarm); pooled it would be 6/8."""
    questions = [ask("yes", category="random"), ask("yes", category="random")]
    questions += [ask(label, category="popular") for label in ("yes", "yes", "no", "no")]
    score = score_pope(questions, ["yes", "no", "yes", "yes", "yes", "no"])
    assert score.overall == pytest.approx(50 * (2 / 3 + 4 / 5))
    assert list(score.parts) == [
        *("F1 of popular", "F1 of random"),
        *("accuracy", "precision", "recall", "yes"),
    ]
    assert list(score.parts.values()) == pytest.approx(
        [80, 200 / 3, (50 + 75) / 2, (100 + 200 / 3) / 2, (50 + 100) / 2, (50 + 75) / 2]
    )


def test_pope_of_three_published_files() -> None:
    """A run of LLaVA-1.5 by its own script, printed in haotian-liu/LLaVA#626 with the mean 0.859883263717447.

    Counts of random are printed there; false alarms of the others follow from their F1s, hits being the same.
    """
    questions: list[Question] = []
    answers: list[str] = []
    for part, (num_negative, num_alarms) in {
        "random": (1410, 31),
        "popular": (1500, 59),
        "adversarial": (1500, 117),
    }.items():
        labels = ["yes"] * 1500 + ["no"] * num_negative
        questions += [ask(label, category=part) for label in labels]
        answers += ["Yes"] * 1183 + ["No"] * 317 + ["Yes"] * num_alarms + ["No"] * (num_negative - num_alarms)
    score = score_pope(questions, answers)
    assert score.num_questions == 8910
    assert score.overall == pytest.approx(85.9883263717447)
    assert score.parts["F1 of random"] == pytest.approx(87.17759764185703)
    assert score.parts["F1 of popular"] == pytest.approx(86.28738147337709)
    assert score.parts["F1 of adversarial"] == pytest.approx(84.5)


def test_mme_by_hand() -> None:
    questions = [
        ask("yes", category="color", group="1"),
        ask("no", category="color", group="1"),
        ask("yes", category="color", group="2"),
        ask("no", category="color", group="2"),
        ask("Yes", category="code_reasoning", group="1"),
        ask("No", category="code_reasoning", group="1"),
    ]
    score = score_mme(questions, ["Yes", "No, it", "yes", "maybe", "YES!", "no"])
    assert score.parts == {"color": 75 + 50, "code_reasoning": 200, "perception": 125, "cognition": 200}
    assert (score.overall, score.num_unread) == (125, 1), "papers print perception"
    assert score_mme(questions[4:], ["yes", "no"]).overall == 200, "cognition, where nothing else was asked"


def test_pictures_of_two_tasks_are_two_pictures() -> None:
    questions = [ask("yes", category="a", group="1"), ask("yes", category="b", group="1")]
    assert score_mme(questions, ["yes", "no"]).parts["a"] == 200


def test_science_qa_by_hand() -> None:
    choices = ("iron", "wood", "ice")
    questions = [
        ask(letter, choices=choices, image=image)
        for letter, image in (("A", "1.png"), ("B", None), ("C", "2.png"), ("A", None), ("A", None))
    ]
    answers = ["A", "B. wood", "It melts. The answer is C.", "D", "The answer is A. The answer is B."]
    score = score_science_qa(questions, answers)
    assert (score.overall, score.num_unread) == (60, 2)
    assert score.parts == {"with a picture": 100}


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("The answer is C, since ice melts", "C"),
        ("The answer is C", None),
        ("The answer is C\n", None),
        ("The answer is Cold.", "C"),
        ("The answer is (C).", None),
        ("The answer is C. The answer is C.", None),
        ("The answer is D.", None),
        ("A. The answer is C.", "A"),
        ("D. The answer is C.", None),
        ("F. The answer is C.", "C"),
        (" C\n", "C"),
        ("C.", None),
        ("C. ice", "C"),
        ("C) ice", None),
        ("c", None),
        ("", None),
    ],
)
def test_letters_of_science_qa_are_read_as_published(answer: str, letter: str | None) -> None:
    scores = [
        score_science_qa([ask(right, choices=("iron", "wood", "ice"))], [answer]) for right in ("A", "B", "C")
    ]
    assert [score.overall for score in scores] == [100 * (letter == right) for right in ("A", "B", "C")]
    assert {score.num_unread for score in scores} == {int(letter is None)}


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("(b)", None),
        ("B.", "B"),
        ("Answer: C", "C"),
        ("A or B", None),
        ("A dog runs along the beach", None),
        ("The picture shows a Cat", "B"),
        ("cat and dog", None),
        ("A cat", "A"),
        ("D", None),
        ("", None),
    ],
)
def test_choices_are_read(answer: str, letter: str | None) -> None:
    assert read_choice(answer, ("dog", "cat", "mouse")) == letter


def test_mmbench_is_circular() -> None:
    def turn(group: str, letter: str, category: str) -> Question:
        return ask(letter, group=group, choices=("x1", "x2"), category=category)

    questions = [turn("1", "A", "ocr"), turn("1", "B", "ocr"), turn("2", "A", "ocr"), turn("3", "B", "map")]
    score = score_mmbench(questions, ["A", "A", "A", "neither"])
    assert score.overall == pytest.approx(100 / 3)
    assert score.parts == {"one order at a time": 50, "map": 0, "ocr": 50}
    assert score.num_unread == 1


@pytest.mark.parametrize("name", RULES)
def test_nothing_asked_is_no_error(name: str) -> None:
    assert RULES[name]([], []).overall == 0


@pytest.mark.parametrize("name", RULES)
def test_answers_must_be_as_many_as_questions(name: str) -> None:
    with pytest.raises(ValueError, match="argument 2 is"):
        RULES[name]([ask("A")], [])
