"""The rows of a JSON list, cut into pieces that a parser takes at once: speculate and verify.

A piece is cut where the bytes between two rows come again (`]},{"id"`, as the file spells it), as far behind
in a chunk as possible. In brackets it is parsed: if that succeeds, the cut is a boundary of rows, for a
parser accepts the closing bracket only where a row has ended, provided that the piece began at one. So no
guess can do harm, by induction over the pieces of a file. Where the parser says no, the rows are walked,
strings and brackets, at a tenth of the speed, and come one by one; what is not even balanced has no next row
and ends the reading.

A chunk in which no row ends is doubled, up to a limit, so a long row is looked at twice at most.
"""

from collections.abc import Iterator
from typing import Final, NoReturn

from pipelines.ingest.rows.pieces import (
    SPACES,
    Piece,
    Place,
    RowsDecoder,
    Span,
    double_size,
    is_splittable,
    split_array,
    try_decode,
)
from pipelines.ingest.rows.row_walk import UnbalancedError, find_value_end, learn_separator, skip_space
from pipelines.ingest.rows.text_source import TextSource

_CLOSER: Final = ord("]")
_COMMA: Final = ord(",")


class ArrayCutter:
    """Cuts a text that begins where a row may, and ends with a list or, inside of one, with a comma."""

    def __init__(
        self,
        source: TextSource,
        offset: int,
        place: Place,
        decoder: RowsDecoder,
        chunk_bytes: int,
    ) -> None:
        self._source = source
        self._place = place
        self._decode = decoder.decode_list
        self._chunk_bytes = chunk_bytes
        self._separator = b""
        self._offset = offset
        """Of the first byte behind the bracket in `_data`, in the file."""
        self._data = bytearray()
        self._end = 0
        """Of what was read into `_data`."""
        self._is_all = False
        """Nothing comes after."""
        self._is_done = False

    def cut(self, *, is_first: bool, is_last: bool) -> Iterator[Piece]:
        """The pieces to the end of the source.

        Args:
            is_first: the list may end before its first row.
            is_last: the text ends with the list.

        Raises:
            CorruptError: where the list is cut or unbalanced, with row and byte offset.
        """
        may_end = is_first
        while not self._is_done:
            piece = self._next(may_end, is_last)
            may_end = False
            if piece is not None:
                self._place.pass_by(piece)
                yield piece

    def _next(self, may_end: bool, is_last: bool) -> Piece | None:
        self._data, self._end = bytearray(b"["), 1
        size = self._chunk_bytes
        while True:
            self._load(size)
            piece = self._speculate(is_last) or self._walk(may_end, is_last)
            if piece is not None or self._is_done:
                return piece
            self._drop_space()
            size = double_size(size, self._chunk_bytes)

    def _load(self, size: int) -> None:
        """Hold so many bytes behind the bracket, or all that are left."""
        grown = bytearray(1 + size)
        grown[: self._end] = self._data[: self._end]
        self._end += self._source.read_into(memoryview(grown)[self._end :])
        self._data = grown
        self._is_all = self._end < len(grown)

    def _drop_space(self) -> None:
        """Forget the spaces before the first row."""
        start = skip_space(self._data, 1, self._end)
        self._data = bytearray(b"[") + self._data[start : self._end]
        self._end = len(self._data)
        self._offset += start - 1

    def _speculate(self, is_last: bool) -> Piece | None:
        """The rows to the last separator or the end of the text, if they parse."""
        data, end = self._data, self._end
        if self._is_all:
            cut = len(data[:end].rstrip(SPACES)) - 1
            is_whole = data[cut] == (_CLOSER if is_last else _COMMA) and skip_space(data, 1, cut) < cut
            return self._take(cut, end) if is_whole else None
        if not self._separator:
            self._learn()
        found = data.rfind(self._separator, 1, end) if self._separator else -1
        if found < 0:
            return None
        cut = data.index(_COMMA, found)
        return self._take(cut, cut + 1)

    def _learn(self) -> None:
        """See how the first two rows are separated."""
        start = skip_space(self._data, 1, self._end)
        try:
            row_end = find_value_end(self._data, start, self._end)
        except UnbalancedError:
            return
        if row_end > 0:
            self._separator = learn_separator(self._data, row_end, self._end)

    def _take(self, cut: int, next_row: int, spans: list[Span] | None = None) -> Piece | None:
        """The piece before the comma or bracket at `cut`; what follows is given back.

        None when it is not known from walking that a row ends there, and no parser confirms it.
        """
        data, view = self._data, memoryview(self._data)
        kept, data[cut] = data[cut], _CLOSER
        text = view[: cut + 1]
        values = try_decode(self._decode, text)
        if values is None and spans is None and not is_splittable(text):
            data[cut] = kept
            return None
        self._source.give_back(view[next_row : self._end])
        self._is_done = self._is_all and next_row == self._end
        piece = Piece(text, self._offset - 1, values, split_array, spans or [])
        self._offset += next_row - 1
        return piece

    def _walk(self, may_end: bool, is_last: bool) -> Piece | None:
        """All rows that are held, one by one; None when not even one is whole and more is to come."""
        data, end = self._data, self._end
        spans: list[Span] = []
        at, cut = 1, 0
        while True:
            start = skip_space(data, at, end)
            if start < end and data[start] == _CLOSER and may_end and not spans:
                return self._close(start, spans)
            row_end = self._find_end(start, len(spans))
            if row_end < 0:
                break
            follows = skip_space(data, row_end, end)
            if follows == end and not self._is_all:
                break
            spans.append((start, row_end))
            if follows == end:
                self._fail(follows, len(spans), "the file is cut")
            if data[follows] == _CLOSER:
                return self._close(follows, spans)
            if data[follows] != _COMMA:
                found = bytes(data[follows : follows + 1])
                self._fail(follows, len(spans), f"',' is wanted, {found!r} found")
            at, cut = follows + 1, follows
        return self._end_walk(start, cut, spans, is_last)

    def _end_walk(self, start: int, cut: int, spans: list[Span], is_last: bool) -> Piece | None:
        """What was walked, when the text that is held ends before the list does."""
        if self._is_all:
            if start == self._end and not is_last:
                self._is_done = True
                return self._take(cut, self._end, spans) if spans else None
            what = "the file is cut"
            if start < self._end:
                what += " in this row, or a quote or bracket is missing"
            self._fail(start, len(spans), what)
        if len(spans) > 1:
            self._separator = learn_separator(self._data, spans[-2][1], self._end)
        if spans:
            return self._take(cut, cut + 1, spans)
        self._place.check_length(self._end - start, self._offset + start - 1)
        return None

    def _find_end(self, start: int, index: int) -> int:
        try:
            return find_value_end(self._data, start, self._end)
        except UnbalancedError as error:
            self._fail(error.place, index, error.what)

    def _close(self, cut: int, spans: list[Span]) -> Piece | None:
        """The last piece, of a list that ends at `cut`."""
        at = skip_space(self._data, cut + 1, self._end)
        if at == self._end and not self._is_all:
            at += self._skip_rest()
        if not self._is_all or at < self._end:
            self._fail(at, len(spans), "something follows the end of the list")
        self._is_done = True
        return self._take(cut, self._end, spans) if spans else None

    def _skip_rest(self) -> int:
        """Read on as long as there are spaces; how many there are."""
        count = 0
        block = bytearray(self._chunk_bytes)
        while held := self._source.read_into(memoryview(block)):
            spaces = skip_space(block, 0, held)
            count += spaces
            if spaces < held:
                return count
        self._is_all = True
        return count

    def _fail(self, at: int, index: int, what: str) -> NoReturn:
        self._place.row += index
        self._place.fail(self._offset + at - 1, what)
