"""What is said about a scene is true of it, and its answer is among the candidates."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.demo.language import (
    QuestionKind,
    ask_clip,
    ask_picture,
    caption_picture,
    chat,
    clip_kinds,
    describe_clip,
    describe_picture,
    name_region,
    picture_kinds,
)
from jobs.demo.scenes import Color, invent_clip, invent_picture, seed_random

SEEDS = st.integers(0, 100_000)


def colors_in(text: str) -> set[str]:
    words = text.lower().replace(".", " ").replace(",", " ").split()
    return {color for color in Color if color in words}


@given(SEEDS)
def test_answers_are_candidates_and_read_off_the_picture(seed: int):
    random = seed_random(seed)
    picture = invent_picture(random, word="STOP" if seed % 2 else None)
    asked = {kind: ask_picture(picture, kind, random) for kind in picture_kinds(picture)}
    assert all(one.answer in one.candidates for one in asked.values())
    assert all(len(set(one.candidates)) == len(one.candidates) > 1 for one in asked.values())
    assert asked[QuestionKind.FIGURE].answer.lower() == picture.figure
    assert asked[QuestionKind.SHAPE].answer.lower() == picture.shape
    ground = QuestionKind.LEFT_HALF if picture.right_ground else QuestionKind.BACKGROUND
    assert asked[ground].answer.lower() == picture.ground
    presence = asked[QuestionKind.PRESENCE]
    assert (colors_in(presence.text) == {picture.figure}) == (presence.answer == "Yes")


@given(SEEDS)
def test_captions_and_descriptions_name_the_picture_s_colors_and_no_other(seed: int):
    random = seed_random(seed)
    picture = invent_picture(random)
    shown = {color for color in (picture.ground, picture.figure, picture.right_ground) if color}
    caption = caption_picture(picture, random)
    assert colors_in(caption) == colors_in(describe_picture(picture)) == shown
    assert caption == caption.lower()
    assert picture.shape in caption


@given(SEEDS)
def test_clips_are_told_as_they_are(seed: int):
    clip = invent_clip(seed_random(seed))
    asked = {kind: ask_clip(clip, kind) for kind in clip_kinds()}
    answers = {kind: question.answer.lower() for kind, question in asked.items()}
    assert answers == {
        QuestionKind.BALL: clip.ball,
        QuestionKind.FIRST_BACKGROUND: clip.ground,
        QuestionKind.LAST_BACKGROUND: clip.last_ground,
        QuestionKind.DIRECTION: clip.direction,
    }
    assert all(question.answer in question.candidates for question in asked.values())
    assert colors_in(describe_clip(clip)) == {clip.ball, clip.ground, clip.last_ground}
    assert clip.direction in describe_clip(clip)


def test_a_question_that_does_not_fit_is_refused():
    whole = next(
        picture
        for seed in range(99)
        if not (picture := invent_picture(seed_random(seed))).right_ground and not picture.word
    )
    for kind in (QuestionKind.LEFT_HALF, QuestionKind.WORD, QuestionKind.BALL):
        with pytest.raises(KeyError):
            ask_picture(whole, kind, seed_random(0))


@given(SEEDS)
def test_the_region_holds_the_figure_s_center(seed: int):
    picture = invent_picture(seed_random(seed))
    box, phrase = name_region(picture)
    left, top, right, bottom = map(float, box.strip("[]").split(", "))
    assert 0 <= left < picture.center[0] < right <= 1
    assert 0 <= top < picture.center[1] < bottom <= 1
    assert phrase == f"a {picture.figure} {picture.shape}"


def test_chats_are_right():
    rounds = chat(seed_random(0), 200)
    sums = [(question, answer) for question, answer in rounds if "plus" in question]
    assert len(sums) > 20
    for question, answer in sums:
        first, second = (int(word.strip("?")) for word in question.split() if word.strip("?").isdigit())
        assert answer.endswith(f" {first + second}.")
    orders = [answer for question, answer in rounds if "alphabet" in question]
    assert len(orders) > 20
    for answer in orders:
        colors = answer.removeprefix("In the order of the alphabet: ").strip(".").split(", ")
        assert colors == sorted(colors)


def test_yes_and_no_are_as_likely_for_every_color():
    random = seed_random(0)
    asked = [ask_picture(invent_picture(random), QuestionKind.PRESENCE, random) for _ in range(3000)]
    yes = Counter(question.text for question in asked if question.answer == "Yes")
    total = Counter(question.text for question in asked)
    assert len(total) == len(Color)
    assert all(0.4 < yes[text] / total[text] < 0.6 for text in total)
