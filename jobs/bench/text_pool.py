"""Made-up text by the gigabyte: cut from one pool, at places that numbers name.

A seeded generator writes a mebichar of words once; a piece of text is a slice of it, which costs a
microsecond. Equal numbers give equal text on every machine. Among the words are quotes, backslashes, line
breaks and letters of several scripts, so that parsers meet escapes and texts of every width. Two slices may
overlap, so the text as a whole compresses better than language does.
"""

from random import Random
from typing import Final

POOL_CHARS: Final = 1 << 20
NUM_WORDS: Final = 20_000
_LETTERS: Final = "etaoinshrdlucmfwypvbgkjqxz"
_UNUSUAL: Final = (
    "café",
    "naïve",
    "東京",
    "красный",
    "it’s",
    "😀",
    'the "best" one',
    "A\\B",
    "so.\n\n1. First,",
)
_UNUSUAL_TIMES: Final = 20
_GOLDEN: Final = 0x9E3779B97F4A7C15
_MASK: Final = 2**64 - 1


class TextPool:
    """Text by the place that a number hashes to."""

    def __init__(self, seed: int) -> None:
        random = Random(seed)  # noqa: S311 - text for a benchmark
        words = ["".join(random.choices(_LETTERS, k=random.randint(2, 9))) for _ in range(NUM_WORDS)]
        words += _UNUSUAL * _UNUSUAL_TIMES
        text = ""
        while len(text) < POOL_CHARS:
            text += " ".join(random.choices(words, k=50_000)) + " "
        self._text = text[:POOL_CHARS]

    def cut(self, number: int, mean_chars: int) -> str:
        """Some text, between half and one and a half times as long as the mean; it is never blank."""
        place = mix(number)
        num_chars = mean_chars // 2 + (place >> 40) % (mean_chars + 1)
        start = place % (POOL_CHARS - 2 * mean_chars)
        return self._text[start : start + num_chars].strip() or "words"


def mix(number: int) -> int:
    """A number whose bits all depend on all bits of another (splitmix64)."""
    number = (number + _GOLDEN) & _MASK
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & _MASK
    return number ^ (number >> 31)
