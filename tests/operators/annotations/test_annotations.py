"""Rows of the published layouts: what they become, and which code names each fault."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from layout_rows import FIELDS, WORDS, anything, messages, row, rows, talk

from operators.annotations import LAYOUTS
from operators.annotations.conversation import LEAKED_LABEL, build_record, is_sound, mend_record
from operators.annotations.media import MAX_MEDIA, name_media
from operators.annotations.turns import LLAVA_SPELLING, read_turns, read_turns_one_by_one
from schemas.errors import RejectCode, SampleError
from schemas.recipe import SourceConfig
from schemas.record import MediumKind, MediumReference, Record, Repair

IMAGE, VIDEO = MediumKind.IMAGE, MediumKind.VIDEO


def parse(value, form="llava"):
    return LAYOUTS[form].parse(value)


def refuse(value, form="llava"):
    with pytest.raises(SampleError) as caught:
        parse(value, form)
    return caught.value


def paths(record):
    return [medium.path for medium in record.media]


def test_every_format_of_a_recipe_has_a_layout():
    accepted = SourceConfig.model_json_schema()["properties"]["format"]["enum"]
    assert sorted(accepted) == sorted(LAYOUTS)
    assert LAYOUTS["llava_yaml"] is LAYOUTS["llava"]


def test_a_published_image_record_is_taken_as_it_stands():
    record = parse(row("<image>\nWhat?", "A bus.", "And?", "Red.", id=33471, image="coco/1.jpg"))
    assert record == Record(
        record_id="33471",
        texts=("<image>\nWhat?", "A bus.", "And?", "Red."),
        media=(MediumReference(IMAGE, "coco/1.jpg"),),
        repairs=(),
    )


@pytest.mark.parametrize("image", [None, []])
def test_no_image_in_either_spelling_means_text_only(image):
    assert parse(row("hi", "hello", image=image)).media == ()
    assert parse(row("hi", "hello")).media == ()


FAULTS = [
    ("a string", RejectCode.NOT_AN_OBJECT),
    (["a", "list"], RejectCode.NOT_AN_OBJECT),
    (None, RejectCode.NOT_AN_OBJECT),
    ({"id": "1"}, RejectCode.MISSING_FIELD),
    (row("q", "a", id=True), RejectCode.BAD_TYPE),
    (row("q", "a", id=1.5), RejectCode.BAD_TYPE),
    (row("q", "a", id=10**5000), RejectCode.BAD_TYPE),
    (row("q", "a", id="\ud800"), RejectCode.BAD_TYPE),
    (row("q", "a", image=3), RejectCode.BAD_TYPE),
    (row("q", "a", image=""), RejectCode.BAD_TYPE),
    (row("q", "a", image=[None]), RejectCode.BAD_TYPE),
    (row("q", "a", image="\ud800.jpg"), RejectCode.BAD_TYPE),
    (row("q", "a", image={"bytes": b"x"}), RejectCode.BAD_TYPE),
    (row("q", "a", video=[["1.jpg", "2.jpg"]]), RejectCode.BAD_TYPE),
    (row("<image>\nq", "a", image="1.jpg", images=["1.jpg"]), RejectCode.BAD_TYPE),
    (row("q", "a", image=["1.jpg"] * (MAX_MEDIA + 1)), RejectCode.TOO_MANY_MEDIA),
    (row("q", 3), RejectCode.BAD_TYPE),
    ({"conversations": "q"}, RejectCode.BAD_TYPE),
    ({"conversations": None}, RejectCode.BAD_TYPE),
    ({"conversations": ["q", "a"]}, RejectCode.NOT_AN_OBJECT),
    ({"conversations": [{"from": "human"}]}, RejectCode.MISSING_FIELD),
    ({"conversations": []}, RejectCode.EMPTY_CONVERSATION),
    ({"conversations": [{"from": "gpt", "value": "a"}]}, RejectCode.BAD_ROLE),
    ({"conversations": talk("q", "a")[:1] * 2}, RejectCode.BAD_ROLE),
    ({"conversations": [{"from": "user", "value": "q"}]}, RejectCode.BAD_ROLE),
    ({"conversations": [{"from": "system", "value": "s"}, *talk("q", "a")]}, RejectCode.BAD_ROLE),
    (row(" \n", "a"), RejectCode.EMPTY_QUESTION),
    (row("q", ""), RejectCode.EMPTY_ANSWER),
    (row("q", "a", "q"), RejectCode.EMPTY_ANSWER),
    (row("q", LEAKED_LABEL, video="1.mp4"), RejectCode.EMPTY_ANSWER),
    (row("<image>\nq", "a"), RejectCode.PLACEHOLDER_WITHOUT_MEDIUM),
    (row("<image>\nq", "a", image=None), RejectCode.PLACEHOLDER_WITHOUT_MEDIUM),
    (row("q\n<image>", "a"), RejectCode.PLACEHOLDER_WITHOUT_MEDIUM),
    (row("q", "a", "<video> q", "a"), RejectCode.PLACEHOLDER_WITHOUT_MEDIUM),
    (row("<image>\n<image>\nq", "a", image="1.jpg"), RejectCode.PLACEHOLDER_MISMATCH),
    (row("<image>\nq", "a", "<image>\nq", "a", image="1.jpg"), RejectCode.PLACEHOLDER_MISMATCH),
    (row("<image>\nq", "see <image>", image="1.jpg"), RejectCode.PLACEHOLDER_MISMATCH),
    (row("q", "see <image>", image="1.jpg"), RejectCode.PLACEHOLDER_MISMATCH),
    (row("<video>\nq", "a", image="1.jpg"), RejectCode.PLACEHOLDER_MISMATCH),
    (row("<video>\n<image>\nq", "a", video="1.mp4"), RejectCode.PLACEHOLDER_MISMATCH),
    (row("<image>\nq", "a", image=["1.jpg", "2.jpg"]), RejectCode.PLACEHOLDER_MISMATCH),
    (row("<image>\n" * 3 + "q", "a", image=["1.jpg", "2.jpg"]), RejectCode.PLACEHOLDER_MISMATCH),
    (row("q", "a", "q", "a", image=["1.jpg", "2.jpg"]), RejectCode.PLACEHOLDER_MISMATCH),
    (row("<video><image>q", "a", video=["1.mp4", "2.mp4"]), RejectCode.PLACEHOLDER_MISMATCH),
    (row("q", "a", image="1.jpg", video="1.mp4"), RejectCode.PLACEHOLDER_MISMATCH),
    (row("<image><image>q", "a", image="1.jpg", video="1.mp4"), RejectCode.PLACEHOLDER_MISMATCH),
    (row("<image>q", "<video>", image="1.jpg", video="1.mp4"), RejectCode.PLACEHOLDER_MISMATCH),
]


@pytest.mark.parametrize(("value", "code"), FAULTS)
def test_each_fault_has_its_code(value, code):
    assert refuse(value).code is code


def test_messages_say_what_was_seen_and_the_way_out():
    assert (
        refuse(row("q", "a", image=["1.jpg"] * 65)).message == "65 media; at most 64 a record are supported"
    )
    unplaced = refuse(row("q", "a", "q", "a", image=["1.jpg", "2.jpg"]))
    assert "2 questions: write <image> where each medium is shown" in unplaced.message
    system = refuse({"conversations": [{"from": "system", "value": "s"}]})
    assert system.message.startswith(
        "turn 0 is from 'system', not 'human'; training writes the chat template's"
    )
    assert refuse({"conversations": [{"value": "q"}]}).message == "turn 0: 'from' is missing"
    assert refuse(row("<image><image>q", "a", image="1.jpg")).message == "2 placeholders for one medium"
    assert refuse(row("<image>q", "a", image=["1", "2", "3"])).message == "1 placeholder for 3 media"


def test_the_first_check_that_fails_names_the_reject():
    everything_wrong = {"id": 1.5, "image": ["1"] * 65, "conversations": [{"from": "gpt", "value": ""}]}
    mended = [
        ("id", 1),
        ("image", ["1.jpg", "2.jpg"]),
        ("conversations", [{"from": "human", "value": 3}, {"from": "gpt", "value": ""}]),
        ("conversations", talk("<image>", "")),
        ("conversations", talk("<image>", "a")),
        ("conversations", talk("<image><image>", "a")),
    ]
    codes = []
    for key, value in mended:
        codes.append(refuse(everything_wrong).code.value)
        everything_wrong[key] = value
    assert codes == [
        "bad_type",
        "too_many_media",
        "bad_role",
        "bad_type",
        "empty_answer",
        "placeholder_mismatch",
    ]
    assert parse(everything_wrong).record_id == "1"


def test_a_missing_placeholder_is_put_in_front_and_counted():
    record = parse(row("q", "a", "q2", "a2", image=["1.jpg"]))
    assert record.texts == ("<image>\nq", "a", "q2", "a2")
    assert record.repairs == (Repair.PLACEHOLDER_ADDED,)
    assert parse(row("q\n<image>", "a", image="1.jpg")).repairs == ()


def test_several_media_stand_in_the_order_of_their_placeholders():
    several = ["c.jpg", "a.jpg", "b.jpg"]
    for key in ("image", "images"):
        record = parse(row("<image> or <image>?", "a", "And <image>?", "a", **{key: several}))
        assert (paths(record), record.repairs) == (several, ())
    videos = parse(row("<image>\n<image>\nq", "a", video=["b.mp4", "a.mp4"]))
    assert videos.texts[0] == "<video>\n<video>\nq"
    assert videos.repairs == (Repair.VIDEO_PLACEHOLDER_RENAMED,)
    assert [(medium.kind, medium.path) for medium in videos.media] == [(VIDEO, "b.mp4"), (VIDEO, "a.mp4")]


def test_several_media_without_a_placeholder_stand_in_front_of_the_only_question():
    record = parse(row("q", "a", image=["1.jpg", "2.jpg"]))
    assert record.texts == ("<image>\n<image>\nq", "a")
    assert record.repairs == (Repair.PLACEHOLDER_ADDED,)


def test_images_and_videos_of_one_record_answer_to_their_own_words():
    record = parse(row("<video>\n<image>?", "a", "<image> <video>", "a", image=["1", "2"], video=["x", "y"]))
    assert paths(record) == ["x", "1", "2", "y"]
    assert [medium.kind for medium in record.media] == [VIDEO, IMAGE, IMAGE, VIDEO]
    assert record.repairs == ()


def test_a_clip_may_be_announced_as_an_image():
    record = parse(row("<image>\nq", f"a\n{LEAKED_LABEL}", video="1.mp4"))
    assert record.texts == ("<video>\nq", "a")
    assert record.repairs == (Repair.LEAKED_LABEL_REMOVED, Repair.VIDEO_PLACEHOLDER_RENAMED)
    assert parse(row("<video>\nq", "a", video="1.mp4")).repairs == ()


def test_placeholders_in_prose_are_escaped_where_no_medium_answers_to_them():
    record = parse(row("What does <video> do in HTML?", "<image>\nand <video> are tags."))
    assert record.texts == ("What does <video > do in HTML?", "<image >\nand <video > are tags.")
    assert record.repairs == (Repair.PLACEHOLDER_ESCAPED,)
    record = parse(row("<image>\nWhich <video> tag?", "a", image="1.jpg"))
    assert record.texts[0] == "<image>\nWhich <video > tag?"


def test_what_separates_turns_in_a_prompt_is_left_alone():
    texts = ("<image>\nWhat does </s> mean?", "It ends ASSISTANT: an answer.</s>")
    assert parse(row(*texts, image="1.jpg")) == ("1", texts, (MediumReference(IMAGE, "1.jpg"),), ())


def test_video_chatgpt_rows_become_one_question_about_a_stem():
    record = parse({"q": "What?", "a": f"A dog.\n{LEAKED_LABEL}", "video_id": "v_x"}, "video_chatgpt")
    assert record.texts == ("<video>\nWhat?", "A dog.")
    assert record.media == (MediumReference(VIDEO, "v_x", by_stem=True),)
    assert record.record_id == "v_x"
    assert record.repairs == (Repair.LEAKED_LABEL_REMOVED,)
    placed = parse({"q": "What?\n<image>", "a": "A dog.", "video_id": "v_x"}, "video_chatgpt")
    assert placed.texts == ("What?\n<video>", "A dog.")
    assert placed.repairs == (Repair.VIDEO_PLACEHOLDER_RENAMED,)


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("v_x", RejectCode.NOT_AN_OBJECT),
        ({"q": "q", "a": "a"}, RejectCode.MISSING_FIELD),
        ({"q": "q", "video_id": "v"}, RejectCode.MISSING_FIELD),
        ({"q": "q", "a": "a", "video_id": 3}, RejectCode.BAD_TYPE),
        ({"q": "q", "a": ["a"], "video_id": "v"}, RejectCode.BAD_TYPE),
        ({"q": "q", "a": "a", "video_id": ""}, RejectCode.BAD_TYPE),
        ({"q": "q", "a": LEAKED_LABEL, "video_id": "v"}, RejectCode.EMPTY_ANSWER),
        ({"q": "q", "a": " ", "video_id": "v"}, RejectCode.EMPTY_ANSWER),
        ({"q": "", "a": "a", "video_id": "v"}, RejectCode.EMPTY_QUESTION),
        ({"q": "q", "a": "see <video>", "video_id": "v"}, RejectCode.PLACEHOLDER_MISMATCH),
    ],
)
def test_each_fault_of_video_chatgpt_has_its_code(value, code):
    assert refuse(value, "video_chatgpt").code is code


def test_pictures_in_a_row_are_referred_to_without_a_path():
    picture = MediumReference(IMAGE)
    for form in ("onevision", "llava_next"):
        for image in ({"bytes": b"x", "path": None}, {"path": None}, [{"bytes": b"x"}]):
            record = parse(row("q", "a", image=image), form)
            assert (record.media, record.texts[0]) == ((picture,), "<image>\nq")
        assert parse(row("<image><image>q", "a", image=[{}, {}]), form).media == (picture, picture)
        assert parse(row("q", "a", image=None), form).media == ()
        assert parse(row("q", "a", image=[]), form).media == ()
        assert LAYOUTS[form].is_embedded
        assert (LAYOUTS[form].media_fields, LAYOUTS[form].name_media()) == ((), ())


@pytest.mark.parametrize(
    ("image", "code"),
    [
        ("1.jpg", RejectCode.BAD_TYPE),
        ([None], RejectCode.BAD_TYPE),
        ({"bytes": "text"}, RejectCode.BAD_TYPE),
        ({"bytes": b""}, RejectCode.EMPTY_FILE),
        ({"bytes": None}, RejectCode.EMPTY_FILE),
        ([{}] * 65, RejectCode.TOO_MANY_MEDIA),
    ],
)
def test_each_fault_of_an_embedded_picture_has_its_code(image, code):
    assert refuse(row("q", "a", image=image), "onevision").code is code


@pytest.mark.parametrize("names", [("user", "assistant"), ("human", "gpt")])
def test_sharegpt_rows_in_both_spellings(names):
    texts = ("<image>Who are they?", "Kane.", "What are they doing?<image>", "Celebrating.")
    pictures = tuple(MediumReference(IMAGE, path) for path in ("b.jpg", "a.jpg"))
    for turns in (
        {"messages": talk(*texts, role="role", text="content", names=names)},
        {"conversations": talk(*texts, names=names), "messages": None},
    ):
        record = parse({**turns, "images": ["b.jpg", "a.jpg"], "videos": None}, "sharegpt")
        assert record == ("", texts, pictures, ())
    assert parse(messages("<video>q", "a", videos=["1.mp4"]), "sharegpt").media == (
        MediumReference(VIDEO, "1.mp4"),
    )
    assert parse(messages("q", "a", images=[], system="", id=5), "sharegpt") == ("5", ("q", "a"), (), ())


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ({"images": []}, RejectCode.MISSING_FIELD),
        ({**messages("q", "a"), "conversations": talk("q", "a")}, RejectCode.BAD_TYPE),
        (messages("q", [{"type": "text", "text": "a"}]), RejectCode.BAD_TYPE),
        (messages("q", "a", images=[{"bytes": b"x", "path": None}]), RejectCode.BAD_TYPE),
        (messages("q", "a", audios=["1.wav"]), RejectCode.WRONG_KIND),
        (messages("q", "a", system="Be kind."), RejectCode.BAD_ROLE),
        (messages("q", "a", tools="[]"), RejectCode.BAD_ROLE),
        (
            {"messages": [{"role": "system", "content": "s"}, *messages("q", "a")["messages"]]},
            RejectCode.BAD_ROLE,
        ),
        ({"messages": [{"role": "pretrain", "content": []}]}, RejectCode.BAD_ROLE),
        (messages("<image>q", "a", images=["1.jpg", "2.jpg"]), RejectCode.PLACEHOLDER_MISMATCH),
        (messages("<image>q", "a"), RejectCode.PLACEHOLDER_WITHOUT_MEDIUM),
    ],
)
def test_each_fault_of_sharegpt_has_its_code(value, code):
    assert refuse(value, "sharegpt").code is code


def sound_or_reject(call, *arguments):
    try:
        return call(*arguments)
    except SampleError as error:
        return error.code, error.message


@given(value=rows | anything, form=st.sampled_from(sorted(LAYOUTS)))
def test_any_row_is_a_sound_record_or_a_reject(value, form):
    record = sound_or_reject(parse, value, form)
    if not isinstance(record, Record):
        return
    words = [word for text in record.texts for word in text.replace("<", " <").split() if word[0] == "<"]
    found = [word[:7] for word in words if word.startswith(("<image>", "<video>"))]
    assert found == [medium.kind.placeholder for medium in record.media]
    assert len(record.texts) % 2 == 0 < len(record.texts)
    assert all(text.strip() for text in record.texts)
    assert not any("<image>" in answer or "<video>" in answer for answer in record.texts[1::2])
    assert type(record.record_id) is str
    assert len(record.media) <= MAX_MEDIA


@given(value=rows, form=st.sampled_from(sorted(LAYOUTS)))
def test_the_media_fields_name_the_media_of_a_record(value, form):
    layout = LAYOUTS[form]
    record = sound_or_reject(layout.parse, value)
    if isinstance(record, Record) and not layout.is_embedded:
        named = layout.name_media(*(value.get(field) for field in layout.media_fields))
        assert sorted(named) == sorted(record.media)


MEDIA = st.lists(
    st.sampled_from([MediumReference(IMAGE, "1"), MediumReference(VIDEO, "x", True)]), max_size=3
)


@given(said=st.lists(WORDS | anything, min_size=1, max_size=6).map(tuple), media=MEDIA.map(tuple))
def test_the_lean_way_agrees_with_the_careful_one(said, media):
    assert sound_or_reject(build_record, "1", said, media) == sound_or_reject(mend_record, "1", said, media)


@given(value=rows)
def test_turns_read_at_once_are_those_read_one_by_one(value):
    lean = sound_or_reject(read_turns, value, LLAVA_SPELLING)
    assert lean == sound_or_reject(read_turns_one_by_one, value, LLAVA_SPELLING)


@given(path=FIELDS["image"].filter(lambda value: value is not None and not isinstance(value, list)))
def test_one_path_is_read_as_a_list_of_one(path):
    for field in range(4):
        alone, listed = ([*[None] * field, value, *[None] * (3 - field)] for value in (path, [path]))
        assert sound_or_reject(name_media, *alone) == sound_or_reject(name_media, *listed)


@pytest.mark.parametrize(
    ("said", "media"),
    [
        (("<image>\nq", "a"), name_media("1.jpg")),
        (("q\n<image>", "a < b", "q <b>", "a"), name_media("1.jpg")),
        (("<image><image>", "a"), name_media(["1.jpg", "2.jpg"])),
        (("<image>", "a", "<image>", "a"), name_media(["1.jpg", "2.jpg"])),
        (("<video>\nq", "a"), name_media(None, "1.mp4")),
        (("q", "<b>a</b>"), ()),
    ],
)
def test_sound_records_take_the_lean_way(said, media):
    assert is_sound(said, media)
    assert build_record("1", said, media).texts is said


@given(said=st.lists(WORDS, min_size=2, max_size=4).map(tuple), media=MEDIA.map(tuple))
def test_mending_twice_changes_nothing(said, media):
    mended = sound_or_reject(mend_record, "1", said, media)
    if isinstance(mended, Record):
        assert mend_record("1", mended.texts, mended.media) == mended._replace(repairs=())
