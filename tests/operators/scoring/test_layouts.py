"""Question files in the published layouts, and files that are none."""

import base64
import json
from functools import partial

import pytest

from operators.scoring.layouts import (
    LETTER,
    SHORT,
    read_gqa,
    read_mmbench,
    read_mme,
    read_pope,
    read_science_qa,
    read_text_vqa,
    read_vqa,
)
from schemas.errors import ConfigError


def encode(value: object) -> bytes:
    return json.dumps(value).encode()


def test_vqa() -> None:
    asked = {"questions": [{"image_id": 42, "question": "What?", "question_id": 420}], "license": {}}
    answers = [{"answer": "net", "answer_confidence": "yes", "answer_id": number} for number in range(10)]
    told = {"annotations": [{"question_id": 420, "answers": answers, "answer_type": "other"}]}
    (question,) = read_vqa(encode(asked), encode(told))
    assert question.image == "COCO_val2014_000000000042.jpg"
    assert question.answers == ("net",) * 10
    assert (question.prompt, question.category) == (f"What?\n{SHORT}", "other")
    with pytest.raises(ConfigError, match="420"):
        read_vqa(encode(asked), encode({"annotations": []}))


def test_gqa() -> None:
    (question,) = read_gqa(encode({"20": {"imageId": "n16", "question": "Is it?", "answer": "no", "x": 1}}))
    assert (question.question_id, question.image, question.answers) == ("20", "n16.jpg", ("no",))


def test_text_vqa() -> None:
    row = {"question_id": 3, "image_id": "003a", "question": "Brand?", "answers": ["nokia"] * 10}
    (question,) = read_text_vqa(encode({"data": [row]}))
    assert (question.image, len(question.answers)) == ("003a.jpg", 10)


def test_pope() -> None:
    row = {"question_id": 1, "image": "COCO_val2014_1.jpg", "text": "Is there a snow?", "label": "yes"}
    (question,) = read_pope("random", encode(row) + b"\n\n")
    assert (question.image, question.answers) == ("COCO_val2014_1.jpg", ("yes",))
    assert (question.question_id, question.category) == ("random-1", "random")


def test_mme() -> None:
    table = b"a.jpg\tIs it red? Please answer yes or no.\tYes\na.jpg\tIs it blue?\tNo\n"
    first, second = read_mme("color", table)
    assert first.prompt == f"Is it red?\n{SHORT}"
    assert (first.image, first.group, second.group) == ("color/a.jpg", "a.jpg", "a.jpg")
    with pytest.raises(ConfigError, match="line 1"):
        read_mme("color", b"a.jpg\tIs it red?\tmaybe")


@pytest.mark.parametrize("mark", ["\u2028", "\x85", "\x0b", "\x1c", "\r"])
def test_a_line_of_mme_ends_where_its_file_ends_it(mark: str) -> None:
    table = f"a.jpg\tIs it{mark}red?\tYes\r\na.jpg\tIs it blue?\tNo"
    first, second = read_mme("color", table.encode())
    assert first.prompt == f"Is it{mark}red?\n{SHORT}"
    assert (first.answers, second.answers) == (("Yes",), ("No",))


def test_science_qa() -> None:
    problem = {"question": "Which?", "choices": ["x", "y"], "answer": 1, "split": "test", "hint": "It is."}
    problems = {"5": problem | {"image": "image.png"}, "6": problem | {"split": "train"}}
    (question,) = read_science_qa(encode(problems))
    assert question.prompt == f"Context: It is.\nWhich?\nA. x\nB. y\n{LETTER}"
    (bare,) = read_science_qa(encode({"5": problem | {"hint": ""}}))
    assert bare.prompt == f"Which?\nA. x\nB. y\n{LETTER}"
    assert (question.image, question.answers) == ("test/5/image.png", ("B",))
    with pytest.raises(ConfigError, match="problem 5"):
        read_science_qa(encode({"5": problem | {"answer": 2}}))
    with pytest.raises(ConfigError, match="split"):
        read_science_qa(encode({"6": problem | {"split": "train"}}))


def test_mmbench() -> None:
    picture = base64.b64encode(b"x" * 200_000).decode()
    header = "index\tquestion\thint\tA\tB\tC\tD\tanswer\tcategory\timage\n"
    rows = f"7\tWho?\tnan\tme\tyou\t\t\tB\tocr\t{picture}\n"
    rows += f"1000007\tWho?\tLook.\tyou\tme\t\t\tA\tocr\t{picture}\n"
    first, second = read_mmbench((header + rows).encode())
    assert first.prompt == f"Who?\nA. me\nB. you\n{LETTER}"
    assert second.prompt.startswith("Look.\nWho?")
    assert (first.group, second.group, first.choices) == ("7", "7", ("me", "you"))
    assert first.image_bytes == b"x" * 200_000
    for row, words in (
        ("7\tWho?\tnan\tme\tyou\t\t\tC\tocr\t" + picture, "no answer"),
        ("7\tWho?\tnan\tme\tyou\t\t\tB\tocr\t*", "base64"),
    ):
        with pytest.raises(ConfigError, match=words):
            read_mmbench((header + row).encode())
    with pytest.raises(ConfigError, match="no column"):
        read_mmbench(b"index\tquestion\n1\tx\n")
    with pytest.raises(ConfigError, match="new-line character"):
        read_mmbench(header.encode() + b"7\tWho\rare?\tnan")


@pytest.mark.parametrize(
    "read", [read_gqa, read_text_vqa, partial(read_pope, "random"), read_science_qa, read_mmbench]
)
@pytest.mark.parametrize("data", [b"[]", b"{", b"\xff\xfe\x00", b'{"data": [{"question_id": null}]}'])
def test_other_files_are_refused(read, data: bytes) -> None:
    with pytest.raises(ConfigError):
        read(data)
