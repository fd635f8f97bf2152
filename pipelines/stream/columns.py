"""The calls of pyarrow that the stream makes on the table of examples, with types: the library ships none.

A file of the table holds some 50,000 rows. It is read whole and checked against its digest; of its columns
only those that are asked for are decoded, one row group at a time.
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow  # pyright: ignore[reportMissingTypeStubs]
import pyarrow.compute  # pyright: ignore[reportMissingTypeStubs]
import pyarrow.parquet  # pyright: ignore[reportMissingTypeStubs]
from jaxtyping import Int64, Shaped, UInt8, UInt32, UInt64

from schemas.errors import CorruptError

_arrow: Any = pyarrow
_compute: Any = pyarrow.compute
_parquet: Any = pyarrow.parquet

ID_DIGITS: Final = 32
_HEX_DIGITS: Final = 16
"""So many digits of a name make a 64-bit number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderColumns:
    """What the order needs of some consecutive rows."""

    ids: UInt64[np.ndarray, " rows"]
    keys: UInt64[np.ndarray, " rows"]
    sources: Int64[np.ndarray, " rows"]
    """Places in the list of sources, -1 for an unknown one."""
    modalities: Int64[np.ndarray, " rows"]
    num_chars: UInt32[np.ndarray, " rows"]


@dataclass(frozen=True, slots=True)
class ExampleText:
    """What an example says, and about which item."""

    example_id: str
    source: str
    item_key: str
    modality: str
    conversation: bytes


class ExampleFile:
    """One file of the table of examples."""

    def __init__(self, data: bytes, path: str) -> None:
        """Open the bytes of a file.

        Raises:
            CorruptError: when they are no parquet.
        """
        self._path = path
        try:
            self._file: Any = _parquet.ParquetFile(io.BytesIO(data), pre_buffer=False)
        except (_arrow.ArrowException, OSError) as error:
            raise CorruptError(f"{path} is no parquet file: {error}") from error
        metadata = self._file.metadata
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    def order_columns(self, sources: Sequence[str], modalities: Sequence[str]) -> Iterator[OrderColumns]:
        """The narrow columns of each row group.

        Raises:
            CorruptError: when a name is not of 32 hex digits.
        """
        for group in range(len(self._starts) - 1):
            table = self._read(group, ["example_id", "item_key", "source", "modality", "num_chars"])
            yield OrderColumns(
                ids=parse_names(table.column("example_id").to_numpy(), self._path, "example_id"),
                keys=parse_names(table.column("item_key").to_numpy(), self._path, "item_key"),
                sources=_find_places(table.column("source"), sources),
                modalities=_find_places(table.column("modality"), modalities),
                num_chars=table.column("num_chars").to_numpy().astype(np.uint32),
            )

    def read_texts(self, rows: Int64[np.ndarray, " rows"]) -> list[ExampleText]:
        """The texts in these rows, which ascend."""
        texts: list[ExampleText] = []
        groups = np.searchsorted(self._starts, rows, side="right") - 1
        for group in np.unique(groups):
            inside = rows[groups == group] - self._starts[group]
            table = self._read(int(group), ["example_id", "source", "item_key", "modality", "conversation"])
            taken = table.take(_arrow.array(inside))
            columns = [column.to_pylist() for column in taken.columns]
            texts += [ExampleText(*values) for values in zip(*columns, strict=True)]
        return texts

    def _read(self, group: int, columns: list[str]) -> Any:  # noqa: ANN401 - pyarrow has no types
        try:
            return self._file.read_row_group(group, columns=columns, use_threads=False).select(columns)
        except (_arrow.ArrowException, OSError, KeyError) as error:
            raise CorruptError(f"{self._path} lacks some of the columns {columns}: {error}") from error


def join_columns(parts: Iterable[OrderColumns]) -> OrderColumns:
    """The columns of a whole file."""
    found = list(parts)
    return OrderColumns(
        ids=np.concatenate([np.empty(0, np.uint64), *(part.ids for part in found)]),
        keys=np.concatenate([np.empty(0, np.uint64), *(part.keys for part in found)]),
        sources=np.concatenate([np.empty(0, np.int64), *(part.sources for part in found)]),
        modalities=np.concatenate([np.empty(0, np.int64), *(part.modalities for part in found)]),
        num_chars=np.concatenate([np.empty(0, np.uint32), *(part.num_chars for part in found)]),
    )


def parse_names(names: Shaped[np.ndarray, " rows"], path: str, column: str) -> UInt64[np.ndarray, " rows"]:
    """The leading 64 bits of names of 32 hex digits.

    Raises:
        CorruptError: when one is no such name.
    """
    text = np.array(names, dtype=f"S{ID_DIGITS + 1}")
    digits: UInt8[np.ndarray, "rows digits"] = text.view(np.uint8).reshape(len(text), -1)
    values = _DIGIT_VALUES[digits[:, :ID_DIGITS]]
    if (values == _NO_DIGIT).any() or digits[:, ID_DIGITS].any():
        raise CorruptError(f"{path}: a value of {column} is not {ID_DIGITS} hex digits")
    result = np.zeros(len(text), dtype=np.uint64)
    for position in range(_HEX_DIGITS):
        result = (result << np.uint64(4)) | values[:, position].astype(np.uint64)
    return result


def read_columns(data: bytes, path: str, names: Sequence[str]) -> dict[str, Shaped[np.ndarray, " rows"]]:
    """Whole columns of a small table.

    Raises:
        CorruptError: when it is no parquet, or lacks some of them.
    """
    try:
        table = _parquet.read_table(io.BytesIO(data), columns=list(names), use_threads=False)
        return {name: table.column(name).to_numpy() for name in names}
    except (_arrow.ArrowException, OSError, KeyError) as error:
        raise CorruptError(f"{path} lacks some of the columns {list(names)}: {error}") from error


_NO_DIGIT: Final = 255


def _digit_values() -> UInt8[np.ndarray, " 256"]:
    values = np.full(256, _NO_DIGIT, dtype=np.uint8)
    for value, digit in enumerate(b"0123456789abcdef"):
        values[digit] = value
    return values


_DIGIT_VALUES: Final = _digit_values()


def _find_places(column: Any, names: Sequence[str]) -> Int64[np.ndarray, " rows"]:  # noqa: ANN401
    found = _compute.index_in(column, value_set=_arrow.array(list(names), type=_arrow.string()))
    return _compute.fill_null(found, -1).to_numpy().astype(np.int64)
