"""JSON lists and JSON lines, a row at a time, with the place of every fault.

A list is cut into rows before it is parsed, each row by itself. So a row that is balanced but no JSON
(NaN, half a surrogate pair, bad UTF-8, a key that stands twice) costs that row alone, while an unbalanced
one is fatal: where the next row begins would be a guess.

Where a row ends is guessed first: where the bytes between the last two rows come again (`},{"id"`, as the
file spells it). If what stands before parses, the guess is right, for no JSON object is the beginning of
another. If it does not, the row is walked, strings and brackets, at a tenth of the speed. One row and one
buffer are held.

`msgspec` parses: it refuses NaN and keeps whole numbers exact. It takes the last of two equal keys, as
all fast parsers do, so keys are counted: a row must have as many as its text has strings followed by a
colon.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedIOBase
from typing import Final, cast

import msgspec

from schemas.errors import CorruptError, RejectCode

MAX_ROW_BYTES: Final = 64 << 20
"""A longer row is taken for a missing quote or bracket."""

_CHUNK_BYTES: Final = 256 << 10
_SPACE: Final = re.compile(rb"[ \t\r\n]*")
_TOKEN: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{}"]', re.DOTALL)
_SCALAR: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[^\s,\[\]{}"]+', re.DOTALL)
_KEY: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"(\s*:)?', re.DOTALL)
_CLOSERS: Final = {ord("["): ord("]"), ord("{"): ord("}")}
_QUOTE: Final = ord('"')
_FIRST_KEY: Final = re.compile(rb'\{\s*"[^"\\]*"')
_GUESS_BYTES: Final = 64 << 10
_PARSE: Final = msgspec.json.Decoder().decode
_CHECK: Final = msgspec.json.Decoder(msgspec.Raw).decode


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its number in the file from 0, its bytes, and its value or the reason why it has none."""

    number: int
    raw: bytes
    value: object = None
    problem: str | None = None
    code: RejectCode = RejectCode.BAD_JSON
    """Of the problem."""


def parse_row(number: int, raw: bytes) -> Row:
    """Parse the bytes of one row; what is wrong with them becomes its problem."""
    try:
        value: object = _PARSE(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return Row(number, raw, problem=f"no JSON: {error}")
    except RecursionError:
        return Row(number, raw, problem="no JSON that is used here: nested too deeply")
    if _count_keys(value) != sum(map(bool, _KEY.findall(raw))):
        return Row(number, raw, problem="a key stands twice in one object")
    return Row(number, raw, value)


def read_lines(file: BufferedIOBase, name: str) -> Iterator[Row]:
    """Rows of a file with one JSON value a line, numbered by line; blank lines are no rows.

    Raises:
        CorruptError: for a line over the limit.
    """
    offset = file.tell()
    number = 0
    while line := file.readline(MAX_ROW_BYTES + 1):
        if len(line) > MAX_ROW_BYTES:
            raise CorruptError(f"annotations {name}: line {number}, byte {offset}: {_too_long()}")
        if raw := line.strip(b" \t\r\n"):
            yield parse_row(number, raw)
        offset += len(line)
        number += 1


def read_array(file: BufferedIOBase, name: str) -> Iterator[Row]:
    """Rows of a file that is one JSON list; values of any type are rows.

    Raises:
        CorruptError: where the list is cut or unbalanced, with row and byte offset.
    """
    window = _Window(file, name)
    window.take(b"[")
    if window.peek() == b"]":
        window.take(b"]")
    else:
        while True:
            raw = window.take_value()
            yield parse_row(window.row, raw)
            window.row += 1
            if window.peek() == b"]":
                window.take(b"]")
                break
            window.take(b",")
    if window.peek():
        window.fail("something follows the end of the list")


class _Window:
    """A view of the file that begins at the next unread byte and grows as far as the row at hand is long."""

    def __init__(self, file: BufferedIOBase, name: str) -> None:
        self.row = 0
        self._file = file
        self._name = name
        self._offset = file.tell()
        self._data = b""
        self._at = 0
        self._ended = False
        self._last_end = -1
        self._separator = b""

    def fail(self, what: str) -> None:
        """Stop with the place of a fault."""
        place = f"row {self.row}, byte {self._offset + self._at}"
        raise CorruptError(
            f"annotations {self._name}: {place}: {what}; mend the file or get it again "
            f"({self.row} rows before it are whole)"
        )

    def peek(self) -> bytes:
        """The next byte that is no space; empty at the end of the file."""
        while True:
            self._at = _end_of(_SPACE.match(self._data, self._at))
            if self._at < len(self._data) or not self._grow():
                return self._data[self._at : self._at + 1]

    def take(self, byte: bytes) -> None:
        """Go past a byte that has to come next."""
        found = self.peek()
        if found != byte:
            self.fail(f"{byte.decode()!r} is wanted, {found!r} found" if found else "the file is cut")
        self._at += 1

    def take_value(self) -> bytes:
        """Go past one value and return its bytes."""
        self.peek()
        guess = self._guess_end()
        while (end := guess if guess > 0 else self._find_end()) < 0:
            if len(self._data) - self._at > MAX_ROW_BYTES:
                self.fail(_too_long())
            if not self._grow():
                self.fail("the file is cut in this row, or a quote or bracket is missing")
        raw = self._data[self._at : end]
        self._at = end
        self._last_end = self._offset + end
        return raw

    def _grow(self) -> bool:
        """Drop what was taken and read on, at least doubling what is left; False at the end of the file."""
        self._offset += self._at
        left = self._data[self._at :]
        more = self._file.read(max(_CHUNK_BYTES, len(left)))
        self._data = left + more
        self._at = 0
        self._ended = not more
        return bool(more)

    def _guess_end(self) -> int:
        """Where the value ends if the next separator ends it; -1 when it does not."""
        closer = (
            self._data.find(self._separator, self._at, self._at + _GUESS_BYTES) if self._separator else -1
        )
        if closer >= 0:
            try:
                _CHECK(memoryview(self._data)[self._at : closer + 1])
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                pass
            else:
                return closer + 1
        self._learn_separator()
        return -1

    def _learn_separator(self) -> None:
        """Keep the bytes from the end of the last row through the first key of this one."""
        closer = self._last_end - 1 - self._offset
        key = _FIRST_KEY.match(self._data, self._at)
        if self._last_end > 0 and closer >= 0 and key and self._data[closer : closer + 1] == b"}":
            self._separator = self._data[closer : key.end()]

    def _find_end(self) -> int:
        """Where the value that starts here ends; -1 when more has to be read to tell."""
        if self._data[self._at : self._at + 1] in (b"{", b"["):
            return self._find_closer()
        match = _SCALAR.match(self._data, self._at)
        if match is None:
            if self._data[self._at : self._at + 1] not in (b'"', b""):
                self.fail("a value is wanted")
            return -1
        return match.end() if match.end() < len(self._data) or self._ended else -1

    def _find_closer(self) -> int:
        expected: list[int] = []
        for match in _TOKEN.finditer(self._data, self._at):
            start = match.start()
            byte = self._data[start]
            if byte == _QUOTE:
                if match.end() == start + 1:
                    return -1
            elif byte in _CLOSERS:
                expected.append(_CLOSERS[byte])
            elif expected.pop() != byte:
                self.fail(f"brackets do not match: {chr(byte)!r} at byte {self._offset + start}")
            elif not expected:
                return match.end()
        return -1


def _end_of(match: re.Match[bytes] | None) -> int:
    return match.end() if match else 0


def _count_keys(value: object) -> int:
    """Entries of all objects inside a value."""
    if isinstance(value, dict):
        entries = cast("dict[str, object]", value)
        return len(entries) + sum(map(_count_keys, entries.values()))
    if isinstance(value, list):
        return sum(map(_count_keys, cast("list[object]", value)))
    return 0


def _too_long() -> str:
    return f"longer than {MAX_ROW_BYTES >> 20} MiB; a quote or bracket is missing"
