"""Texts and media of a row to a record, by the rules that all layouts share.

Every question has an answer, none is blank, and each medium has one placeholder (see `placeholders`). The
record of nearly every row is sound as published: that is seen by counting words in its texts joined, and
nothing is changed. All others go through the mends, one after another, and the first fault names the code.
"""

from typing import Final, cast

from operators.annotations.fields import check_text
from operators.annotations.media import References
from operators.annotations.placeholders import Repairs, Texts, settle_placeholders
from schemas.errors import RejectCode, SampleError
from schemas.record import IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER, MediumKind, Record, Repair

LEAKED_LABEL: Final = "QA_GT_caption_based_noisy"
"""Name of a file of the authors of Video-ChatGPT, left in many of their texts."""

_IMAGE: Final = MediumKind.IMAGE


def build_record(record_id: str, said: tuple[object, ...], media: References) -> Record:
    """The record of a row.

    Args:
        record_id: as published.
        said: what human and gpt say in turn, human first, at least one turn.
        media: in the order in which the row names them.

    Raises:
        SampleError: BAD_TYPE, EMPTY_QUESTION, EMPTY_ANSWER, PLACEHOLDER_WITHOUT_MEDIUM or
            PLACEHOLDER_MISMATCH.
    """
    texts = cast(Texts, said)
    return Record(record_id, texts, media) if _is_sound(texts, media) else mend_record(record_id, said, media)


def mend_record(record_id: str, said: tuple[object, ...], media: References) -> Record:
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


def _is_sound(texts: Texts, media: References) -> bool:
    """True only for a record that `mend_record` would leave as it is."""
    try:
        joined = "\n".join(texts)
    except TypeError:
        return False
    if len(texts) % 2 or "" in texts or any(map(str.isspace, texts)):
        return False
    if not media:
        return IMAGE_PLACEHOLDER not in joined and VIDEO_PLACEHOLDER not in joined
    first, *others = media
    if others:
        return _are_several_sound(texts, media, joined)
    if first.kind is _IMAGE:
        word, other = IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER
    else:
        word, other = VIDEO_PLACEHOLDER, IMAGE_PLACEHOLDER
        if LEAKED_LABEL in joined:
            return False
    return joined.count(word) == 1 and word in texts[0] and other not in joined


def _are_several_sound(texts: Texts, media: References, joined: str) -> bool:
    """As `_is_sound`, for several images; other mixtures are rare."""
    if any(medium.kind is not _IMAGE for medium in media):
        return False
    asked = "\n".join(texts[::2]).count(IMAGE_PLACEHOLDER)
    return asked == joined.count(IMAGE_PLACEHOLDER) == len(media) and VIDEO_PLACEHOLDER not in joined


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
