"""JSON text to plain values, none of them silently other than the text says.

`msgspec` parses: it refuses NaN and keeps whole numbers exact. It takes the last of two equal keys, as all
fast parsers do. So strings are counted: a text in which no key stands twice has as many as its values have,
and each has two quotes. Counting those of the text is cheap. Of the values it costs a fifth of the parse if
they are as rows usually are, scalars and lists of flat objects of texts, which the parser proves while it
decodes; and half of it otherwise: they are written again, and the quotes of that are counted.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final, cast

import msgspec
import numpy as np

from schemas.errors import RejectCode

NO_JSON: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What the parser raises."""

_UsualCell = str | int | float | bool | list[str | dict[str, str]] | None
_UsualRow = dict[str, _UsualCell]
_DECODE_USUAL: Final = msgspec.json.Decoder(list[_UsualRow]).decode
_DECODE_USUAL_LINES: Final = msgspec.json.Decoder(_UsualRow).decode_lines
_DECODE: Final = msgspec.json.Decoder(list[object]).decode
_DECODE_LINES: Final = msgspec.json.Decoder().decode_lines
_DECODE_ROW: Final = msgspec.json.Decoder().decode
_WRITE_INTO: Final = msgspec.json.Encoder().encode_into
_LENGTH_OF_DICT: Final = cast("Callable[[object], int]", vars(dict)["__len__"])
"""A TypeError for anything else."""
_KEY: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"(\s*:)?', re.DOTALL)
_QUOTE: Final = ord('"')
_BACKSLASH: Final = ord("\\")


@dataclass(frozen=True, slots=True)
class RowProblem:
    """Why a row has no value."""

    code: RejectCode
    message: str


class LostKeyError(msgspec.DecodeError):
    """A key stands twice in one object of some rows."""


class RowDecoder:
    """Decodes rows, many at once; keeps the memory that it needs for that."""

    def __init__(self) -> None:
        self._written = bytearray()
        self._is_byte = np.empty(0, np.bool_)

    def decode_list(self, text: memoryview) -> list[Any]:
        """The values of a list of rows.

        Raises:
            LostKeyError: when a key stands twice in an object of one of them.
            one of `NO_JSON`: when they are none.
        """
        return self._decode(text, _DECODE_USUAL, _DECODE)

    def decode_lines(self, text: memoryview) -> list[Any]:
        """The values of rows that follow each other.

        Raises:
            as `decode_list`.
        """
        return self._decode(text, _DECODE_USUAL_LINES, _DECODE_LINES)

    def _decode(
        self,
        text: memoryview,
        decode_usual: Callable[[memoryview], list[_UsualRow]],
        decode_any: Callable[[memoryview], list[Any]],
    ) -> list[Any]:
        try:
            values = decode_usual(text)
        except msgspec.ValidationError:
            values = decode_any(text)
            num_quotes = self.count_quotes(text)
        else:
            num_quotes = self.count_quotes(text)
            if 2 * count_usual_strings(values) == num_quotes:
                return values
        _WRITE_INTO(values, self._written)
        if self.count_quotes(memoryview(self._written)) != num_quotes:
            raise LostKeyError
        return values

    def count_quotes(self, text: memoryview | bytearray) -> int:
        """The quotes of sound JSON that begin or end a string."""
        data = np.frombuffer(text, np.uint8)
        if len(data) > len(self._is_byte):
            self._is_byte = np.empty(2 * len(data), np.bool_)
        is_byte = self._is_byte[: len(data)]
        num_quotes = int(np.count_nonzero(np.equal(data, _QUOTE, out=is_byte)))
        escapes = np.flatnonzero(np.equal(data, _BACKSLASH, out=is_byte))
        escapes = escapes[data[escapes + 1] == _QUOTE]
        unsure = escapes[data[escapes - 1] == _BACKSLASH].tolist()
        return num_quotes - len(escapes) + sum(_count_back(text, at) % 2 == 0 for at in unsure)


def parse_row(raw: bytes, offset: int) -> object | RowProblem:
    """The value of a row, or its problem.

    Args:
        raw: the bytes of the row.
        offset: of the row in its file.
    """
    try:
        value: object = _DECODE_ROW(raw)
    except RecursionError:
        return _problem("nested too deeply", offset)
    except NO_JSON as error:
        return _problem(f"no JSON: {error}", offset)
    if _count_keys(value) != sum(map(bool, _KEY.findall(raw))):
        return _problem("a key stands twice in one object", offset)
    return value


def _count_back(text: memoryview | bytearray, at: int) -> int:
    """How many backslashes stand side by side up to a place; the last of an even number escapes nothing."""
    count = 0
    while text[at - count] == _BACKSLASH:
        count += 1
    return count


def count_usual_strings(rows: list[_UsualRow]) -> int:
    """How many strings there are in usual rows, keys among them; -1 when lists mix texts and objects."""
    count = 0
    objects: list[list[str | dict[str, str]]] = []
    for row in rows:
        count += len(row)
        for cell in row.values():
            if type(cell) is str:
                count += 1
            elif type(cell) is list and cell:
                if type(cell[0]) is dict:
                    objects.append(cell)
                else:
                    count += len(cell)
                    if any(type(text) is dict for text in cell):
                        return -1
    try:
        return count + 2 * sum(map(_LENGTH_OF_DICT, chain.from_iterable(objects)))
    except TypeError:
        return -1


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
