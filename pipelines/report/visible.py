"""What strangers wrote, made fit to be shown.

Escaping is the template's matter; this is what escaping leaves: characters that show nothing or turn the text
around them (controls, bidirectional marks, private and unassigned ones) are spelled by their number, and long
text is cut, with a word on how much was left out. Joiners stay, which scripts and emoji are written with.
"""

import unicodedata
from typing import Final

SHOWN_CHARS: Final = 800
_KEPT: Final = frozenset("\n\t\u200c\u200d")
_HIDDEN: Final = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"})


def make_visible(text: str, limit: int = SHOWN_CHARS) -> str:
    """The first characters of a text, each of them to be seen."""
    shown = "".join(_spell(character) for character in text[:limit])
    left_out = len(text) - limit
    return f"{shown} ... and {left_out:,} characters more" if left_out > 0 else shown


def make_bytes_visible(beginning: bytes, num_bytes: int, limit: int = SHOWN_CHARS) -> str:
    """The same of bytes that may be no text: so many of them there are, and this is how they begin."""
    text = beginning.decode(errors="replace")
    is_whole = len(text) <= limit and len(beginning) == num_bytes
    shown = make_visible(text[:limit], limit)
    return shown if is_whole else f"{shown} ... of {num_bytes:,} bytes"


def _spell(character: str) -> str:
    if character in _KEPT or unicodedata.category(character) not in _HIDDEN:
        return character
    return f"\u27e8U+{ord(character):04X}\u27e9"
