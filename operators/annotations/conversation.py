"""Texts and media of a row to a record, by the rules that all layouts share.

Every question has an answer, none is blank, and each medium has one placeholder (see `placeholders`). The
record of nearly every row is sound as published: that is seen by counting words in its texts joined, and
nothing is changed. All others go through the mends, one after another, and the first fault names the code.
"""

from typing import Final

from operators.annotations.fields import check_text
from operators.annotations.media import References
from operators.annotations.placeholders import Repairs, Texts, settle_placeholders
from operators.annotations.turns import Said
from schemas.errors import RejectCode, SampleError
from schemas.record import IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER, MediumKind, Record, Repair

LEAKED_LABEL: Final = "QA_GT_caption_based_noisy"
"""Name of a file of the authors of Video-ChatGPT, left in many of their texts."""

_IMAGE: Final = MediumKind.IMAGE


def build_record(record_id: str, said: Said, media: References) -> Record:
    """The record of a row.

    Args:
        record_id: as published.
        said: in turn, human first, at least one turn.
        media: in the order in which the row names them.

    Raises:
        SampleError: BAD_TYPE, EMPTY_QUESTION, EMPTY_ANSWER, PLACEHOLDER_WITHOUT_MEDIUM or
            PLACEHOLDER_MISMATCH.
    """
    if is_sound(said, media):
        return Record(record_id, said, media)
    return mend_record(record_id, said, media)


def mend_record(record_id: str, said: Said, media: References) -> Record:
    """`build_record`, slowly: step by step, with the code of the first fault.

    Raises:
        SampleError: as `build_record`.
    """
    texts = tuple(check_text(text, f"turn {index}") for index, text in enumerate(said))
    cleaned: Repairs = ()
    if any(medium.kind is MediumKind.VIDEO for medium in media):
        texts, cleaned = _remove_leaked_label(texts)
    _check_texts(texts)
    texts, media, settled = settle_placeholders(texts, media)
    return Record(record_id, texts, media, (*cleaned, *settled))


def is_sound(said: Said, media: References) -> bool:
    """True only for what `mend_record` would leave as it is."""
    try:
        joined = "\n".join(said)
    except TypeError:
        return False
    if len(said) % 2 or not all(map(str.strip, said)):
        return False
    if not media:
        return "<" not in joined or not (IMAGE_PLACEHOLDER in joined or VIDEO_PLACEHOLDER in joined)
    word = IMAGE_PLACEHOLDER
    if media[0].kind is not _IMAGE:
        word = VIDEO_PLACEHOLDER
        if LEAKED_LABEL in joined:
            return False
    begin = joined.find("<")
    if begin == joined.rfind("<") and len(media) == 1:
        return begin < len(said[0]) and joined.startswith(word, begin)
    return _are_words_sound(said, media, joined, word)


def _are_words_sound(said: Said, media: References, joined: str, word: str) -> bool:
    """All media are of one kind; as many words of it stand in questions, and no other word anywhere."""
    other = VIDEO_PLACEHOLDER if word is IMAGE_PLACEHOLDER else IMAGE_PLACEHOLDER
    if joined.count(word) != len(media) or other in joined:
        return False
    kind = media[0].kind
    return all([medium.kind is kind for medium in media]) and word not in "\n".join(said[1::2])


def _remove_leaked_label(texts: Texts) -> tuple[Texts, Repairs]:
    if not any(LEAKED_LABEL in text for text in texts):
        return texts, ()
    cleaned = tuple(
        text.replace(LEAKED_LABEL, "").strip() if LEAKED_LABEL in text else text for text in texts
    )
    return cleaned, (Repair.LEAKED_LABEL_REMOVED,)


def _check_texts(texts: Texts) -> None:
    for index, text in enumerate(texts):
        if not text.strip():
            is_answer = index % 2
            code = RejectCode.EMPTY_ANSWER if is_answer else RejectCode.EMPTY_QUESTION
            raise SampleError(code, f"turn {index} ({'gpt' if is_answer else 'human'}) is blank")
    if len(texts) % 2:
        raise SampleError(RejectCode.EMPTY_ANSWER, f"turn {len(texts) - 1} is a question without an answer")
