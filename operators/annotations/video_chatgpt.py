"""Video-ChatGPT's raw layout: one question and answer about a clip that is named without its extension.

    {"q": "What is shown?", "a": "A dog.", "video_id": "v_GqWH2IYPw6U"}

The placeholder is no part of this layout, so putting it in front is no repair. The published converter
puts it before or after the question by the parity of the row; here it is always before, so that text does
not depend on where a row stands.
"""

from operators.annotations.conversation import check_texts, remove_leaked_label, settle_placeholders
from operators.annotations.fields import check_text, read_field, read_object
from schemas.errors import RejectCode, SampleError
from schemas.record import Locator, MediumKind, MediumReference, Record, Repair, Turn


def parse_video_chatgpt(row: object, source: str, locator: Locator) -> Record:
    """A row of VideoInstruct100K.json.

    Raises:
        SampleError: with the code of the first check that fails.
    """
    fields = read_object(row)
    video_id = check_text(read_field(fields, "video_id"), "'video_id'")
    if not video_id:
        raise SampleError(RejectCode.BAD_TYPE, "'video_id' is empty")
    question = check_text(read_field(fields, "q"), "'q'")
    answer = check_text(read_field(fields, "a"), "'a'")
    turns, cleaned = remove_leaked_label((Turn("human", question), Turn("gpt", answer)))
    check_texts(turns)
    turns, settled = settle_placeholders(turns, MediumKind.VIDEO)
    return Record(
        source=source,
        locator=locator,
        record_id=video_id,
        turns=turns,
        media=(MediumReference(MediumKind.VIDEO, video_id, by_stem=True),),
        repairs=(*cleaned, *(repair for repair in settled if repair is not Repair.PLACEHOLDER_ADDED)),
    )
