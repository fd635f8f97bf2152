"""JSON text to plain values, none of them silently other than the text says.

`msgspec` parses: it refuses NaN and keeps whole numbers exact. It takes the last of two equal keys, as all
fast parsers do. So strings are counted: a text in which no key stands twice has as many as its values have,
and one key more or less is two quotes. The values are written again to count theirs, a third of the cost of
parsing; that is the cheapest walk over them.
"""

import re
from dataclasses import dataclass
from typing import Final, cast

import msgspec
import numpy as np

from schemas.errors import RejectCode

NO_JSON: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What the parser raises."""

_PARSE: Final = msgspec.json.Decoder().decode
_WRITE: Final = msgspec.json.Encoder().encode
_KEY: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"(\s*:)?', re.DOTALL)
_ESCAPED_QUOTE: Final = re.compile(rb'(?<!\\)(?:\\\\)*+\\"')
_QUOTE: Final = ord('"')
_BACKSLASH: Final = ord("\\")


@dataclass(frozen=True, slots=True)
class RowProblem:
    """Why a row has no value."""

    code: RejectCode
    message: str


def parse_row(raw: bytes, offset: int) -> object | RowProblem:
    """The value of a row, or its problem.

    Args:
        raw: the bytes of the row.
        offset: of the row in its file.
    """
    try:
        value: object = _PARSE(raw)
    except RecursionError:
        return _problem("nested too deeply", offset)
    except NO_JSON as error:
        return _problem(f"no JSON: {error}", offset)
    if _count_keys(value) != sum(map(bool, _KEY.findall(raw))):
        return _problem("a key stands twice in one object", offset)
    return value


def has_all_keys(text: memoryview, values: list[object]) -> bool:
    """Whether the values hold every key that stands in their text, none of them lost to an equal one."""
    return count_quotes(text) == count_quotes(_WRITE(values))


def count_quotes(text: bytes | memoryview) -> int:
    """The quotes of sound JSON that begin or end a string."""
    data = np.frombuffer(text, np.uint8)
    is_quote = data == _QUOTE
    count = int(np.count_nonzero(is_quote))
    is_escape = data == _BACKSLASH
    escaped = is_quote[1:] & is_escape[:-1]
    num_escaped = int(np.count_nonzero(escaped))
    if num_escaped and bool(np.any(escaped[1:] & is_escape[:-2])):
        return count - len(_ESCAPED_QUOTE.findall(text))
    return count - num_escaped


def _problem(what: str, offset: int) -> RowProblem:
    return RowProblem(RejectCode.BAD_JSON, f"{what} (the row begins at byte {offset} of the file)")


def _count_keys(value: object) -> int:
    """Entries of all objects inside a value."""
    if isinstance(value, dict):
        entries = cast("dict[str, object]", value)
        return len(entries) + sum(map(_count_keys, entries.values()))
    if isinstance(value, list):
        return sum(map(_count_keys, cast("list[object]", value)))
    return 0
