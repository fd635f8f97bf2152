"""Rows of the published layouts: what they become, and which code names each fault."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.annotations import PARSERS
from operators.annotations.conversation import LEAKED_LABEL, settle_placeholders
from schemas.errors import RejectCode, SampleError
from schemas.record import Locator, MediumKind, MediumReference, Record, Repair, Turn

PLACE = Locator("a.json", 7)


def talk(*texts):
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]


def row(*texts, **fields):
    return {"id": "1", "conversations": talk(*texts), **fields}


def parse(value, form="llava"):
    return PARSERS[form](value, "source", PLACE)


def texts(record):
    return [turn.text for turn in record.turns]


def test_a_published_image_record_is_taken_as_it_stands():
    record = parse(row("<image>\nWhat?", "A bus.", "And?", "Red.", id=33471, image="coco/1.jpg"))
    assert record == Record(
        source="source",
        locator=PLACE,
        record_id="33471",
        turns=(
            Turn("human", "<image>\nWhat?"),
            Turn("gpt", "A bus."),
            Turn("human", "And?"),
            Turn("gpt", "Red."),
        ),
        media=(MediumReference(MediumKind.IMAGE, "coco/1.jpg"),),
    )


@pytest.mark.parametrize("image", [None, []])
def test_no_image_in_either_spelling_means_text_only(image):
    assert parse(row("hi", "hello", image=image)).media == ()
    assert parse(row("hi", "hello")).media == ()


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("a string", RejectCode.NOT_AN_OBJECT),
        (["a", "list"], RejectCode.NOT_AN_OBJECT),
        (None, RejectCode.NOT_AN_OBJECT),
        ({"id": "1"}, RejectCode.MISSING_FIELD),
        (row("q", "a", id=True), RejectCode.BAD_TYPE),
        (row("q", "a", id=1.5), RejectCode.BAD_TYPE),
        (row("q", "a", id=10**5000), RejectCode.BAD_TYPE),
        (row("q", "a", image=3), RejectCode.BAD_TYPE),
        (row("q", "a", image=""), RejectCode.BAD_TYPE),
        (row("q", "a", image=[None]), RejectCode.BAD_TYPE),
        (row("q", "a\ud800"), RejectCode.BAD_TYPE),
        (row("q", 3), RejectCode.BAD_TYPE),
        ({"conversations": "q"}, RejectCode.BAD_TYPE),
        ({"conversations": ["q", "a"]}, RejectCode.NOT_AN_OBJECT),
        ({"conversations": [{"from": "human"}]}, RejectCode.MISSING_FIELD),
        ({"conversations": []}, RejectCode.EMPTY_CONVERSATION),
        (row("q", "a", image=["1.jpg", "2.jpg"]), RejectCode.TOO_MANY_MEDIA),
        (row("q", "a", image="1.jpg", video="1.mp4"), RejectCode.TOO_MANY_MEDIA),
        ({"conversations": [{"from": "gpt", "value": "a"}]}, RejectCode.BAD_ROLE),
        ({"conversations": talk("q", "a")[:1] * 2}, RejectCode.BAD_ROLE),
        ({"conversations": [{"from": "user", "value": "q"}]}, RejectCode.BAD_ROLE),
        (row(" \n", "a"), RejectCode.EMPTY_QUESTION),
        (row("q", ""), RejectCode.EMPTY_ANSWER),
        (row("q", "a", "q"), RejectCode.EMPTY_ANSWER),
        (row("<image>\nq", "a"), RejectCode.PLACEHOLDER_WITHOUT_MEDIUM),
        (row("q\n<image>", "a"), RejectCode.PLACEHOLDER_WITHOUT_MEDIUM),
        (row("q", "a", "<video> q", "a"), RejectCode.PLACEHOLDER_WITHOUT_MEDIUM),
        (row("<image>\n<image>\nq", "a", image="1.jpg"), RejectCode.PLACEHOLDER_MISMATCH),
        (row("<image>\nq", "a", "<image>\nq", "a", image="1.jpg"), RejectCode.PLACEHOLDER_MISMATCH),
        (row("<image>\nq", "see <image>", image="1.jpg"), RejectCode.PLACEHOLDER_MISMATCH),
        (row("<video>\nq", "a", image="1.jpg"), RejectCode.PLACEHOLDER_MISMATCH),
        (row("<video>\n<image>\nq", "a", video="1.mp4"), RejectCode.PLACEHOLDER_MISMATCH),
    ],
)
def test_each_fault_has_its_code(value, code):
    with pytest.raises(SampleError) as caught:
        parse(value)
    assert caught.value.code is code


def test_the_first_check_that_fails_names_the_reject():
    everything_wrong = {"id": 1.5, "image": ["1", "2"], "conversations": talk("", "")}
    codes = []
    for key, value in (("id", 1), ("image", "1.jpg"), ("conversations", talk("q", "a"))):
        with pytest.raises(SampleError) as caught:
            parse(everything_wrong)
        codes.append(caught.value.code)
        everything_wrong[key] = value
    assert codes == [RejectCode.BAD_TYPE, RejectCode.TOO_MANY_MEDIA, RejectCode.EMPTY_QUESTION]
    assert parse(everything_wrong).record_id == "1"


def test_a_missing_placeholder_is_put_in_front_and_counted():
    record = parse(row("q", "a", image=["1.jpg"]))
    assert texts(record) == ["<image>\nq", "a"]
    assert record.repairs == (Repair.PLACEHOLDER_ADDED,)
    assert parse(row("q\n<image>", "a", image="1.jpg")).repairs == ()


def test_a_clip_may_be_announced_as_an_image():
    record = parse(row("<image>\nq", f"a\n{LEAKED_LABEL}", video="1.mp4"))
    assert texts(record) == ["<video>\nq", "a"]
    assert record.repairs == (Repair.LEAKED_LABEL_REMOVED, Repair.VIDEO_PLACEHOLDER_RENAMED)
    assert parse(row("<video>\nq", "a", video="1.mp4")).repairs == ()


def test_placeholders_in_prose_are_escaped_where_no_medium_answers_to_them():
    record = parse(row("What does <video> do in HTML?", "<image>\nand <video> are tags."))
    assert texts(record) == ["What does <video > do in HTML?", "<image >\nand <video > are tags."]
    assert record.repairs == (Repair.PLACEHOLDER_ESCAPED,)
    record = parse(row("<image>\nWhich <video> tag?", "a", image="1.jpg"))
    assert texts(record)[0] == "<image>\nWhich <video > tag?"


def test_video_chatgpt_rows_become_one_question_about_a_stem():
    record = parse({"q": "What?", "a": f"A dog.\n{LEAKED_LABEL}", "video_id": "v_x"}, "video_chatgpt")
    assert texts(record) == ["<video>\nWhat?", "A dog."]
    assert record.media == (MediumReference(MediumKind.VIDEO, "v_x", by_stem=True),)
    assert record.record_id == "v_x"
    assert record.repairs == (Repair.LEAKED_LABEL_REMOVED,)


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("v_x", RejectCode.NOT_AN_OBJECT),
        ({"q": "q", "a": "a"}, RejectCode.MISSING_FIELD),
        ({"q": "q", "video_id": "v"}, RejectCode.MISSING_FIELD),
        ({"q": "q", "a": "a", "video_id": 3}, RejectCode.BAD_TYPE),
        ({"q": "q", "a": "a", "video_id": ""}, RejectCode.BAD_TYPE),
        ({"q": "q", "a": LEAKED_LABEL, "video_id": "v"}, RejectCode.EMPTY_ANSWER),
        ({"q": "", "a": "a", "video_id": "v"}, RejectCode.EMPTY_QUESTION),
    ],
)
def test_each_fault_of_video_chatgpt_has_its_code(value, code):
    with pytest.raises(SampleError) as caught:
        parse(value, "video_chatgpt")
    assert caught.value.code is code


def test_onevision_rows_hold_bytes_or_point_to_their_own_row():
    record = parse(row("q", "a", image={"bytes": b"x", "path": None}), "onevision")
    assert record.media == (MediumReference(MediumKind.IMAGE, data=b"x"),)
    assert texts(record)[0] == "<image>\nq"
    record = parse(row("q", "a", image={"path": None}), "onevision")
    assert record.media == (MediumReference(MediumKind.IMAGE),)
    assert parse(row("q", "a", image=None), "onevision").media == ()


@pytest.mark.parametrize(
    ("image", "code"),
    [
        ("1.jpg", RejectCode.BAD_TYPE),
        ({"bytes": "text"}, RejectCode.BAD_TYPE),
        ({"bytes": b""}, RejectCode.EMPTY_FILE),
        ({"bytes": None}, RejectCode.EMPTY_FILE),
    ],
)
def test_each_fault_of_a_onevision_picture_has_its_code(image, code):
    with pytest.raises(SampleError) as caught:
        parse(row("q", "a", image=image), "onevision")
    assert caught.value.code is code


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
WORDS = st.lists(st.sampled_from(["<image>", "<video>", "\n", " ", "word"]), max_size=6).map("".join)
turns = st.one_of(
    st.lists(WORDS, max_size=5).map(lambda parts: talk(*parts)),
    st.lists(
        st.fixed_dictionaries(
            {}, optional={"from": st.sampled_from(["human", "gpt", "x"]), "value": WORDS | anything}
        ),
        max_size=4,
    ),
)
rows = st.fixed_dictionaries(
    {},
    optional={
        "id": anything,
        "image": st.sampled_from(["1.jpg", ["1.jpg"], None, {"path": None}]) | anything,
        "video": st.sampled_from(["1.mp4", None]) | anything,
        "conversations": turns | anything,
        "q": WORDS | anything,
        "a": WORDS | anything,
        "video_id": st.text(max_size=3) | anything,
    },
)


@given(value=rows | anything, form=st.sampled_from(sorted(PARSERS)))
def test_any_row_is_a_sound_record_or_a_reject(value, form):
    try:
        record = parse(value, form)
    except SampleError:
        return
    words = "".join(texts(record)).replace("<image >", "").replace("<video >", "")
    assert words.count("<image>") + words.count("<video>") == len(record.media)
    assert all(medium.kind.placeholder in words for medium in record.media)
    assert [turn.role for turn in record.turns] == ["human", "gpt"] * (len(record.turns) // 2)
    assert record.turns
    assert all(turn.text.strip() for turn in record.turns)


@given(parts=st.lists(WORDS, min_size=2, max_size=4), kind=st.sampled_from([None, *MediumKind]))
def test_settling_twice_changes_nothing(parts, kind):
    talked = tuple(Turn(turn["from"], turn["value"]) for turn in talk(*parts))
    try:
        settled, _ = settle_placeholders(talked, kind)
    except SampleError:
        return
    assert settle_placeholders(settled, kind) == (settled, ())
