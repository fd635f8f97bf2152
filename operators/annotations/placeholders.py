"""The words `<image>` and `<video>` in a conversation: one for each medium, in a question, in order.

What counts:

- Images alone answer to `<image>`, videos alone to `<video>` or, as LLaVA-NeXT writes it, to `<image>`, not
  to both. Images and videos together answer each to its own word, and the media are put in the order of
  the words.
- The words of a record are as many as its media and stand in questions; anything else is a mismatch.
- No word at all is mended where only one mend is possible: in front of the first question for one medium, as
  every published set has it, and in order in front of the only question for several of one kind. In a longer
  conversation nobody can tell which question shows which of several media.

For the other words, those that no medium of the record answers to: a question that begins with the word,
or whose last line is the word alone, calls for a medium that is not there, and the record is refused.
Everywhere else it is prose (chats about HTML hold `<video>` and `<image>` tags) and is written `<video
>`: the same tag to HTML, and no placeholder to anybody.
"""

import re
from collections.abc import Iterable
from typing import Final

from operators.annotations.media import References
from schemas.errors import RejectCode, SampleError
from schemas.record import IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER, MediumKind, Repair

Texts = tuple[str, ...]
Repairs = tuple[Repair, ...]

_BOTH: Final = (IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER)
_ANY_WORD: Final = re.compile("|".join(_BOTH))


def settle_placeholders(texts: Texts, media: References) -> tuple[Texts, References, Repairs]:
    """Texts with one placeholder for each medium, and the media in the order of these.

    Raises:
        SampleError: PLACEHOLDER_WITHOUT_MEDIUM or PLACEHOLDER_MISMATCH.
    """
    match sorted({medium.kind for medium in media}):
        case []:
            settled, repairs = _escape_words(texts, _BOTH, RejectCode.PLACEHOLDER_WITHOUT_MEDIUM)
        case [MediumKind.IMAGE]:
            settled, repairs = _settle_images(texts, len(media))
        case [MediumKind.VIDEO]:
            settled, repairs = _settle_videos(texts, len(media))
        case _:
            return texts, _order_as_named(texts, media), ()
    return settled, media, repairs


def _settle_images(texts: Texts, number: int) -> tuple[Texts, Repairs]:
    others = (VIDEO_PLACEHOLDER,)
    texts, escaped = _escape_words(texts, others, RejectCode.PLACEHOLDER_MISMATCH)
    texts, added = _settle_number(texts, number, IMAGE_PLACEHOLDER)
    return texts, (*added, *escaped)


def _settle_videos(texts: Texts, number: int) -> tuple[Texts, Repairs]:
    words = {word for text in texts for word in _ANY_WORD.findall(text)}
    if len(words) > 1:
        raise SampleError(
            RejectCode.PLACEHOLDER_MISMATCH, f"both {' and '.join(_BOTH)} in a record that names videos only"
        )
    renamed: Repairs = ()
    if IMAGE_PLACEHOLDER in words:
        texts = tuple(text.replace(IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER) for text in texts)
        renamed = (Repair.VIDEO_PLACEHOLDER_RENAMED,)
    texts, added = _settle_number(texts, number, VIDEO_PLACEHOLDER)
    return texts, (*added, *renamed)


def _order_as_named(texts: Texts, media: References) -> References:
    _refuse_in_answers(texts)
    words = [word for text in texts for word in _ANY_WORD.findall(text)]
    waiting = {kind.placeholder: [medium for medium in media if medium.kind is kind] for kind in MediumKind}
    for word, named in waiting.items():
        if words.count(word) != len(named):
            raise SampleError(
                RejectCode.PLACEHOLDER_MISMATCH,
                f"{words.count(word)} placeholders {word} for {len(named)} media",
            )
    return tuple(waiting[word].pop(0) for word in words)


def _settle_number(texts: Texts, number: int, word: str) -> tuple[Texts, Repairs]:
    _refuse_in_answers(texts)
    found = sum(text.count(word) for text in texts)
    if found == number:
        return texts, ()
    if found:
        raise _mismatch(found, number)
    num_questions = len(texts) // 2
    if number > 1 and num_questions > 1:
        raise SampleError(
            RejectCode.PLACEHOLDER_MISMATCH,
            f"no placeholder for {number} media in a conversation of {num_questions} questions: "
            f"write {word} where each medium is shown",
        )
    return (f"{word}\n" * number + texts[0], *texts[1:]), (Repair.PLACEHOLDER_ADDED,)


def _mismatch(found: int, number: int) -> SampleError:
    names = f"{found} placeholder{'s' * (found > 1)} for {number if number > 1 else 'one'} medi"
    return SampleError(RejectCode.PLACEHOLDER_MISMATCH, names + ("a" if number > 1 else "um"))


def _refuse_in_answers(texts: Texts) -> None:
    if any(_ANY_WORD.search(text) for text in texts[1::2]):
        raise SampleError(RejectCode.PLACEHOLDER_MISMATCH, "a placeholder stands in an answer")


def _escape_words(texts: Texts, words: Iterable[str], code: RejectCode) -> tuple[Texts, Repairs]:
    if not any(word in text for text in texts for word in words):
        return texts, ()
    for index, text in enumerate(texts[::2]):
        for word in words:
            if _calls_for_medium(text, word):
                raise SampleError(
                    code, f"turn {2 * index} calls for a medium by {word}, the record names none"
                )
    return tuple(_escape(text, words) for text in texts), (Repair.PLACEHOLDER_ESCAPED,)


def _calls_for_medium(text: str, word: str) -> bool:
    stripped = text.strip()
    return stripped.startswith(word) or stripped.endswith(f"\n{word}")


def _escape(text: str, words: Iterable[str]) -> str:
    for word in words:
        text = text.replace(word, f"{word[:-1]} >")
    return text
