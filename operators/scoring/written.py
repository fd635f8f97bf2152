"""Answers as people write them, made comparable: the processing of the VQA challenge.

Source: Agrawal et al. 2016, "VQA: Visual Question Answering", section 5, and the challenge's evaluation page:
lower case, periods that are no decimal points removed, number words to digits, articles removed, apostrophes
put into contractions, other punctuation to spaces. Where the published steps have quirks they are kept, since
scores are compared with published ones; the two that show are told at their place.
"""

import re
from typing import Final

_ARTICLES: Final = frozenset({"a", "an", "the"})
_DIGITS: Final = {
    word: str(value)
    for value, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
} | {"none": "0"}
_PUNCTUATION: Final = ';/[]"{}()=+\\_-><@`,?!'
_PERIOD: Final = re.compile(r"\.(?!\d)")
_COMMA_IN_NUMBER: Final = re.compile(r"\d,\d")
_NOTS: Final = (
    "ain aren can couldn didn doesn don hadn hasn haven isn mightn mustn needn shouldn wasn weren won wouldn"
)
_ENDINGS: Final = {
    "ve": "could should would might must i they we you who",
    "d": "he she they you who there somebody someone something",
    "ll": "he it she they you who there somebody someone something",
    "s": "he she it that there who what when where how let somebody someone",
    "re": "they you who",
    "m": "i",
}
_AMBIGUOUS: Final = frozenset({"hed", "hell", "shell", "shed", "well", "were", "its", "whos", "id", "ill"})
"""Words of their own, or kept as they are by the challenge."""
_CONTRACTIONS: Final = {f"{stem}t": f"{stem}'t" for stem in _NOTS.split()} | {
    f"{stem}{ending}": f"{stem}'{ending}"
    for ending, stems in _ENDINGS.items()
    for stem in stems.split()
    if f"{stem}{ending}" not in _AMBIGUOUS
}


def process_answer(text: str) -> str:
    """An answer as the challenge compares it."""
    return process_words(process_punctuation(tidy_spaces(text)))


def tidy_spaces(text: str) -> str:
    """Line ends and tabs to spaces, none around."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def process_punctuation(text: str) -> str:
    """Punctuation removed, or to spaces where it stands between letters.

    A mark with a space beside it is removed; as published, so is every mark beside a number like 1,000.
    """
    has_number = _COMMA_IN_NUMBER.search(text) is not None
    out = text
    for mark in _PUNCTUATION:
        is_removed = has_number or f"{mark} " in text or f" {mark}" in text
        out = out.replace(mark, "" if is_removed else " ")
    return _PERIOD.sub("", out)


def process_words(text: str) -> str:
    """Lower case, digits for number words, no articles, apostrophes in contractions."""
    words = (_DIGITS.get(word, word) for word in text.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def agree_with_people(answer: str, people: tuple[str, ...]) -> float:
    """Accuracy against several people: min(1, agreeing / 3), the mean of leaving out each of them."""
    shares = [
        min(1.0, sum(other == answer for place, other in enumerate(people) if place != left) / 3)
        for left in range(len(people))
    ]
    return sum(shares) / len(shares) if shares else 0.0
