"""Parquet files that other people wrote, by the few calls of pyarrow that are used, with types.

Files are opened by us and only read by pyarrow: so they may lie anywhere, and no message of its names a path
of this machine. Columns are streamed page by page, so a large row group costs no more memory than a
small one.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow  # pyright: ignore[reportMissingTypeStubs]
import pyarrow.parquet  # pyright: ignore[reportMissingTypeStubs]

from pipelines.ingest.rows.text_source import choose_block_bytes

_arrow: Any = pyarrow
_parquet: Any = pyarrow.parquet

DAMAGE: Final[tuple[type[Exception], ...]] = (_arrow.ArrowException, OSError, UnicodeDecodeError)
"""What reading a damaged file raises; UnicodeDecodeError when bad UTF-8 becomes Python text."""

_BAD_CELL: Final[tuple[type[Exception], ...]] = (ValueError, OverflowError)
"""What one cell raises that Python has no value for: text that is no UTF-8, a date out of range."""
_BUFFER_BYTES: Final = 1 << 20
_PICTURE_COLUMNS: Final = frozenset({"image", "images"})

Values = dict[str, object]
"""A row by column."""


@dataclass(frozen=True, slots=True)
class RowGroup:
    """What the footer says of a row group."""

    num_rows: int
    text_bytes: int
    """Of the columns without pictures, unpacked."""
    picture_bytes: int


@dataclass(frozen=True, slots=True)
class ReadableRow:
    """The cells of a row that can be read, and what is wrong with the first that cannot."""

    values: Values
    problem: str | None = None


class ParquetInput:
    """An open parquet file: its leaf columns, its row groups, its rows in batches."""

    def __init__(self, file: io.RawIOBase) -> None:
        """Read the footer.

        Raises:
            one of `DAMAGE`: when there is none.
        """
        buffer_bytes = choose_block_bytes(file) or _BUFFER_BYTES
        self._file: Any = _parquet.ParquetFile(file, pre_buffer=False, buffer_size=buffer_bytes)
        self.leaves: list[str] = [column.path for column in self._file.schema]
        metadata: Any = self._file.metadata
        self.groups = [_describe(metadata.row_group(index)) for index in range(metadata.num_row_groups)]

    @property
    def text_leaves(self) -> list[str]:
        """All columns but pictures; those too when nothing else tells whether a row has one."""
        return [leaf for leaf in self.leaves if not is_picture(leaf) or not self._siblings(leaf)]

    def batches(self, groups: range, leaves: Sequence[str], batch_rows: int) -> Iterator["Batch"]:
        """The rows of some row groups, as far as some columns."""
        chosen = list(groups)
        for batch in self._file.iter_batches(batch_rows, chosen, leaves, use_threads=False):
            yield Batch(batch)

    def _siblings(self, leaf: str) -> list[str]:
        parent = leaf.removesuffix("bytes")
        return [other for other in self.leaves if other.startswith(parent) and other != leaf]


class Batch:
    """Some rows."""

    def __init__(self, batch: Any) -> None:  # noqa: ANN401 - pyarrow has no types
        self._batch = batch
        self.num_rows: int = batch.num_rows

    def rows(self) -> list[ReadableRow]:
        """All rows, each without the cells that cannot be read; one such cell spoils no other."""
        try:
            rows: list[Values] = self._batch.to_pylist()
        except _BAD_CELL:
            return [self._read_cells(index) for index in range(self.num_rows)]
        return [ReadableRow(values) for values in rows]

    def _read_cells(self, index: int) -> ReadableRow:
        values: Values = {}
        problem: str | None = None
        for name, column in zip(self._batch.schema.names, self._batch.columns, strict=True):
            try:
                values[name] = column[index].as_py()
            except _BAD_CELL as error:
                problem = problem or f"column {name!r} cannot be read: {error}"
        return ReadableRow(values, problem)


def is_picture(leaf: str) -> bool:
    """Whether a leaf column is `bytes` of the structs, or lists of structs, in `image` or `images`."""
    parts = leaf.split(".")
    return len(parts) in (2, 4) and parts[0] in _PICTURE_COLUMNS and parts[-1] == "bytes"


def _describe(group: Any) -> RowGroup:  # noqa: ANN401 - pyarrow has no types
    text_bytes = picture_bytes = 0
    for index in range(group.num_columns):
        column = group.column(index)
        if is_picture(column.path_in_schema):
            picture_bytes += column.total_compressed_size
        else:
            text_bytes += column.total_uncompressed_size
    return RowGroup(group.num_rows, text_bytes, picture_bytes)
