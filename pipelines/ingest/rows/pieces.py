"""Some whole rows of a text, and how they decode together.

A list of rows is decoded at once where that succeeds; else its rows are found one by one, and whoever holds
the piece looks at each.

Lines are decoded together if a `}` stands before each newline and a `{` behind it: nowhere inside of a value
may these three follow each other, so no value goes on behind a newline. Then as many values as lines are one
a line.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn, Protocol, runtime_checkable

import msgspec
import numpy as np

from pipelines.ingest.rows.text_source import TextSource
from schemas.errors import CorruptError

MAX_ROW_BYTES = 64 << 20
"""A longer row is taken for a missing quote or bracket."""

Decode = Callable[[memoryview], list[Any]]
Span = tuple[int, int]


@runtime_checkable
class RowsDecoder(Protocol):
    """Decodes many rows at once; raises what `msgspec` raises."""

    def decode_list(self, text: memoryview) -> list[Any]:
        """The elements of a list."""
        ...

    def decode_lines(self, text: memoryview) -> list[Any]:
        """Values that follow each other, with spaces between them or none."""
        ...


SPACES: Final = b" \t\r\n"
_ROWS: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode
_OPENER, _CLOSER, _NEWLINE = b"{}\n"
_NO_JSON: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


@dataclass(slots=True)
class Piece:
    """Some whole rows."""

    text: memoryview
    offset: int
    """Of the text, in the file."""
    values: list[Any] | None
    """The rows decoded, or None when they do not decode as a whole."""
    split: Callable[[memoryview], list[Span]]
    known_spans: list[Span] = field(default_factory=list[Span])

    @property
    def spans(self) -> list[Span]:
        """Where each row stands in the text."""
        if not self.known_spans:
            self.known_spans = self.split(self.text)
        return self.known_spans

    def raw(self, index: int) -> bytes:
        """The bytes of a row."""
        start, end = self.spans[index]
        return bytes(self.text[start:end])

    @property
    def num_rows(self) -> int:
        """How many there are."""
        return len(self.spans) if self.values is None else len(self.values)


@dataclass(slots=True)
class Place:
    """Where in a file the reading is, for messages."""

    name: str
    row: int

    def fail(self, offset: int, what: str) -> NoReturn:
        """Stop with the place of a fault."""
        raise CorruptError(
            f"annotations {self.name}: row {self.row}, byte {offset}: {what}; mend the file or get it again "
            f"({self.row} rows before it are whole)"
        )

    def check_length(self, num_bytes: int, offset: int) -> None:
        """Stop at a row over the limit."""
        if num_bytes > MAX_ROW_BYTES:
            self.fail(offset, f"longer than {MAX_ROW_BYTES >> 20} MiB; a quote or bracket is missing")

    def pass_by(self, piece: Piece) -> None:
        """Go on to the first row behind a piece."""
        if len(piece.text) > MAX_ROW_BYTES:
            for start, end in piece.spans:
                self.check_length(end - start, piece.offset + start)
                self.row += 1
        else:
            self.row += piece.num_rows


def double_size(size: int, chunk_bytes: int) -> int:
    """The size of a buffer for a row that did not fit, up to what any row fits into."""
    return min(2 * size, MAX_ROW_BYTES + chunk_bytes)


def try_decode(decode: Decode, text: memoryview) -> list[Any] | None:
    """The rows of a text, or None when it does not decode."""
    try:
        return decode(text)
    except _NO_JSON:
        return None


def is_splittable(text: memoryview) -> bool:
    """Whether `split_array` can be used."""
    return try_decode(_ROWS, text) is not None


def split_array(text: memoryview) -> list[Span]:
    """The elements of a list whose strings and brackets are sound."""
    data = bytes(text)
    spans: list[Span] = []
    at = 1
    for raw in map(bytes, _ROWS(data)):
        start = data.index(raw[:1], at)  # before a row are spaces and a comma, and none begins with these
        at = start + len(raw)
        spans.append((start, at))
    return spans


def split_lines(text: memoryview) -> list[Span]:
    """The lines that are not blank, without the spaces around them."""
    spans: list[Span] = []
    start = 0
    for line in bytes(text).split(b"\n"):
        if stripped := line.strip(SPACES):
            first = start + line.index(stripped[:1])
            spans.append((first, first + len(stripped)))
        start += len(line) + 1
    return spans


def cut_lines(
    source: TextSource, offset: int, place: Place, decoder: RowsDecoder, chunk_bytes: int
) -> Iterator[Piece]:
    """Pieces of JSON lines; blank ones are no rows.

    Raises:
        CorruptError: for a line over the limit.
    """
    size = chunk_bytes
    while True:
        data = bytearray(size)
        view = memoryview(data)
        held = source.read_into(view)
        if not held:
            return
        end = held if held < size else data.rfind(b"\n") + 1
        source.give_back(view[end:held])
        if not end:
            place.check_length(held, offset)
            size = double_size(size, chunk_bytes)
            continue
        piece = Piece(view[:end], offset, _decode_lines(view[:end], decoder.decode_lines), split_lines)
        place.pass_by(piece)
        if piece.num_rows:
            yield piece
        offset += end
        size = chunk_bytes


def _decode_lines(text: memoryview, decode: Decode) -> list[Any] | None:
    data = np.frombuffer(text, np.uint8)
    newlines = np.flatnonzero(data[:-1] == _NEWLINE)
    is_between = data[0] == _OPENER and (data[newlines - 1] == _CLOSER) & (data[newlines + 1] == _OPENER)
    values = try_decode(decode, text) if np.all(is_between) else None
    return values if values is not None and len(values) == len(newlines) + 1 else None
