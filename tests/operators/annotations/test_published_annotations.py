"""Real annotation files in the published layouts, read to the last row."""

import json

import pytest

from operators.annotations import LAYOUTS
from schemas.errors import RejectCode, SampleError
from schemas.record import MediumKind

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def read_annotations(media_folder):
    """Rows of a JSON or JSON-lines file."""

    def read(name):
        text = (media_folder / "annotations" / name).read_text(encoding="utf-8")
        return (
            [json.loads(line) for line in text.splitlines()] if name.endswith(".jsonl") else json.loads(text)
        )

    return read


@pytest.mark.parametrize(
    ("name", "form", "kind"),
    [
        ("llava_single_images.json", "llava", MediumKind.IMAGE),
        ("llava_video.json", "llava", MediumKind.VIDEO),
        ("made_videoinstruct_qa.json", "video_chatgpt", MediumKind.VIDEO),
        ("mllm_demo.json", "sharegpt", MediumKind.IMAGE),
        ("mllm_video_demo.json", "sharegpt", MediumKind.VIDEO),
    ],
)
def test_every_row_is_sound_as_published(read_annotations, name, form, kind):
    rows = read_annotations(name)
    records = [LAYOUTS[form].parse(row) for row in rows]
    assert len(records) >= 3
    for row, record in zip(rows, records, strict=True):
        said = [
            turn.get("value", turn.get("content"))
            for turn in row.get("conversations", row.get("messages", []))
        ]
        if form == "video_chatgpt":
            said = [f"<video>\n{row['q']}", row["a"]]
        named = (
            row.get("images")
            or row.get("videos")
            or [row.get("image") or row.get("video") or row["video_id"]]
        )
        assert (list(record.texts), record.repairs) == (said, ())
        assert [(medium.kind, medium.path) for medium in record.media] == [(kind, path) for path in named]


def test_a_row_without_an_answer_is_the_only_one_refused(read_annotations):
    refused: list[tuple[str, RejectCode]] = []
    written = 0
    for row in read_annotations("made_llava_all_shared_images.json"):
        try:
            assert LAYOUTS["llava"].parse(row).repairs == ()
            written += 1
        except SampleError as error:
            refused.append((row["id"], error.code))
    assert written > 50
    assert refused == [("no_gpt", RejectCode.EMPTY_ANSWER)]


def test_two_pictures_in_two_questions(read_annotations):
    first = LAYOUTS["sharegpt"].parse(read_annotations("mllm_demo.json")[0])
    assert [text.count("<image>") for text in first.texts] == [1, 0, 1, 0]
    assert len(first.media) == 2


@pytest.mark.parametrize(
    ("name", "form", "code"),
    [
        ("mllm_pretrain_image_example_data.jsonl", "sharegpt", RejectCode.BAD_ROLE),
        ("demo-dataset-videos.jsonl", "sharegpt", RejectCode.MISSING_FIELD),
        ("qa90_questions.jsonl", "llava", RejectCode.MISSING_FIELD),
        ("qa90_gpt4_answer.jsonl", "video_chatgpt", RejectCode.MISSING_FIELD),
        ("mllm_demo.json", "llava", RejectCode.MISSING_FIELD),
    ],
)
def test_rows_of_other_layouts_are_refused_by_name(read_annotations, name, form, code):
    codes = set()
    for row in read_annotations(name):
        with pytest.raises(SampleError) as caught:
            LAYOUTS[form].parse(row)
        codes.add(caught.value.code)
    assert codes == {code}
