"""Video-ChatGPT's raw layout: one question and answer about a clip that is named without its extension.

    {"q": "What is shown?", "a": "A dog.", "video_id": "v_GqWH2IYPw6U"}

The placeholder is no part of this layout, so putting it in front is no repair. The published converter
puts it before or after the question by the parity of the row; here it is always before, so that text does
not depend on where a row stands.
"""

from typing import Final

from operators.annotations.conversation import LEAKED_LABEL, mend_record
from operators.annotations.fields import check_name, check_text, read_field, read_object
from operators.annotations.layout import Layout
from operators.annotations.media import References
from schemas.errors import RejectCode, SampleError
from schemas.record import (
    IMAGE_PLACEHOLDER,
    VIDEO_PLACEHOLDER,
    MediumKind,
    MediumReference,
    Record,
    Repair,
)

_VIDEO: Final = MediumKind.VIDEO


def name_clip(video_id: object) -> References:
    """A reference to the clip.

    Raises:
        SampleError: BAD_TYPE.
    """
    stem = check_name(video_id, "'video_id'")
    if not stem:
        raise SampleError(RejectCode.BAD_TYPE, "'video_id' is empty")
    return (MediumReference(_VIDEO, stem, True),)


def parse_video_chatgpt(row: object) -> Record:
    """A row of VideoInstruct100K.json.

    Raises:
        SampleError: with the code of the first check that fails.
    """
    fields = read_object(row)
    media = name_clip(read_field(fields, "video_id"))
    question = check_text(read_field(fields, "q"), "'q'")
    answer = check_text(read_field(fields, "a"), "'a'")
    record_id = media[0].path or ""
    if _is_plain(question, answer):
        return Record(record_id, (f"{VIDEO_PLACEHOLDER}\n{question}", answer), media)
    record = mend_record(record_id, (question, answer), media)
    repairs = tuple(repair for repair in record.repairs if repair is not Repair.PLACEHOLDER_ADDED)
    return record._replace(repairs=repairs)


def _is_plain(question: str, answer: str) -> bool:
    joined = f"{question}\n{answer}"
    if IMAGE_PLACEHOLDER in joined or VIDEO_PLACEHOLDER in joined or LEAKED_LABEL in joined:
        return False
    return bool(question and answer) and not question.isspace() and not answer.isspace()


VIDEO_CHATGPT: Final = Layout(parse_video_chatgpt, ("video_id",), name_clip)
