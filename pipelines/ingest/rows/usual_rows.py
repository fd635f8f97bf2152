"""Rows as their layout is published, decoded many at once to columns.

A row of a million is like the one before: the same few fields, one of them a list of turns. A parser that is
told so makes no dictionaries, and whoever reads the rows takes a whole column at a time. Which fields a file
has is learned from its first rows. Nothing is taken on trust: the strings of the columns, names of fields
among them, are counted and have to be as many as the quotes of the text say; then no field is left out and no
key stands twice. Any other rows are decoded in the general way, and the fields that were new are learned.
"""

from collections.abc import Callable, Iterable
from types import NoneType
from typing import Any, Final, cast

import msgspec

from operators.annotations.turns import Spelling
from operators.annotations.usual import Columns
from pipelines.ingest.rows.json_values import RowDecoder

MAX_FIELDS: Final = 32
"""Of rows that are usual."""
_SCALARS: Final = (NoneType, int, float, bool)
_AS_TUPLE: Final = msgspec.structs.astuple
_STRINGS_OF_TURN: Final = 4
"""Two names of fields, two values."""


class UsualDecoder:
    """A `RowsDecoder` that gives objects for rows that are usual, and dictionaries for all others."""

    def __init__(self, spelling: Spelling) -> None:
        self._turns = spelling.turns
        self._decoder = RowDecoder()
        self._turn = msgspec.defstruct(
            "Turn",
            [("role", str), ("text", str)],
            rename={"role": spelling.role, "text": spelling.text},
            gc=False,
        )
        self._names: tuple[str, ...] = ()
        """Of the fields that were learned."""
        self._latest: tuple[list[Any], Columns] = ([], {})
        """Rows that were decoded last, and their columns."""
        self._decode_list: Callable[[memoryview], list[Any]] | None = None
        self._decode_lines: Callable[[memoryview], list[Any]] | None = None

    def decode_list(self, text: memoryview) -> list[Any]:
        """See `RowsDecoder`; raises as `RowDecoder` does."""
        return self._try_usual(text, self._decode_list) or self._learn(self._decoder.decode_list(text))

    def decode_lines(self, text: memoryview) -> list[Any]:
        """See `RowsDecoder`; raises as `RowDecoder` does."""
        return self._try_usual(text, self._decode_lines) or self._learn(self._decoder.decode_lines(text))

    def take_columns(self, rows: list[Any] | None) -> Columns | None:
        """The fields of the rows that were decoded last, None where a row has none; None if not usual."""
        latest, columns = self._latest
        return columns if rows and rows is latest else None

    def _try_usual(self, text: memoryview, decode: Callable[[memoryview], list[Any]] | None) -> list[Any]:
        """Rows that are proven to be usual; none where they are not."""
        if decode is None:
            return []
        try:
            rows = decode(text)
        except msgspec.ValidationError:
            return []
        num_strings = 0
        columns: dict[str, list[Any]] = {}
        for name, cells in zip(self._names, zip(*map(_AS_TUPLE, rows), strict=True), strict=True):
            column, types = list(cells), list(map(type, cells))
            num_absent = types.count(msgspec.UnsetType)
            if num_absent:
                column = [None if cell is msgspec.UNSET else cell for cell in column]
            num_strings += len(column) - num_absent
            if name == self._turns:
                num_strings += _STRINGS_OF_TURN * sum(map(len, filter(None, column)))
            else:
                num_strings += _count_texts(types, num_absent)
            columns[name] = column
        if 2 * num_strings != self._decoder.count_quotes(text):
            return []
        self._latest = rows, columns
        return rows

    def _learn(self, rows: list[Any]) -> list[Any]:
        """The rows, after a look at their fields."""
        names = dict.fromkeys(self._names)
        for row in rows:
            if isinstance(row, dict):
                names.update(dict.fromkeys(cast("dict[str, object]", row)))
        if len(names) > len(self._names) and self._turns in names and _can_be_fields(names):
            self._names = tuple(names)
            row = self._define_row()
            self._decode_list = msgspec.json.Decoder(list[row]).decode
            self._decode_lines = msgspec.json.Decoder(row).decode_lines
        return rows

    def _define_row(self) -> type[msgspec.Struct]:
        fields = [f"field_{index}" for index in range(len(self._names))]
        turns: Any = list[self._turn] | msgspec.UnsetType
        kinds: list[Any] = [turns if name == self._turns else Any for name in self._names]
        return msgspec.defstruct(
            "Row",
            [(field, kind, msgspec.UNSET) for field, kind in zip(fields, kinds, strict=True)],
            rename=dict(zip(fields, self._names, strict=True)),
            gc=False,
        )


def _count_texts(types: list[type], num_absent: int) -> int:
    """Texts among cells of these types; too few to be true where there are lists or objects."""
    num_texts = types.count(str)
    num_others = len(types) - num_texts - num_absent
    return num_texts if num_others == 0 or num_others == sum(map(types.count, _SCALARS)) else -len(types)


def _can_be_fields(names: Iterable[str]) -> bool:
    wanted = list(names)
    return len(wanted) <= MAX_FIELDS and all(
        name.isascii() and name.isprintable() and not {'"', "\\"} & set(name) for name in wanted
    )
