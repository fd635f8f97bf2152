"""The few calls of pyarrow that are used, with types: the library ships none."""

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import pyarrow  # pyright: ignore[reportMissingTypeStubs]
import pyarrow.parquet  # pyright: ignore[reportMissingTypeStubs]

from pipelines.ingest.columns import list_column

_arrow: Any = pyarrow
_parquet: Any = pyarrow.parquet

ARROW_ERRORS: Final[tuple[type[Exception], ...]] = (_arrow.ArrowException, OSError, UnicodeDecodeError)
"""What reading a damaged file raises; UnicodeDecodeError when bad UTF-8 becomes Python text."""

ROWS_PER_GROUP: Final = 16_384
_BATCH_ROWS: Final = 1024

_REPETITIVE: Final = frozenset({"source", "record_file", "modality", "kind", "extension", "code"})
"""Columns of few different values; they are stored by number."""

Values = dict[str, object]
"""A row by column."""


class ParquetFile:
    """An open parquet file that this project wrote: its columns, its rows."""

    def __init__(self, file: io.BytesIO) -> None:
        self._file: Any = _parquet.ParquetFile(file, pre_buffer=False)
        self.leaves: list[str] = [column.path for column in self._file.schema]

    def rows(self) -> Iterator[Values]:
        """All rows as plain values."""
        for batch in self._file.iter_batches(_BATCH_ROWS, use_threads=False):
            yield from batch.to_pylist()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TableSchema:
    """Columns of a table that this project writes: (name, Arrow type), none of them null."""

    def __init__(self, *columns: tuple[str, str]) -> None:
        types: dict[str, Any] = {
            "string": _arrow.string(),
            "binary": _arrow.binary(),
            "large_binary": _arrow.large_binary(),
            "int32": _arrow.int32(),
            "int64": _arrow.int64(),
            "double": _arrow.float64(),
        }
        self.names: list[str] = [name for name, _ in columns]
        self._schema: Any = _arrow.schema([_arrow.field(name, types[kind], False) for name, kind in columns])

    def write(self, rows: Sequence[tuple[object, ...]]) -> bytes:
        """Rows as a parquet file: the same rows give the same bytes, with one release of Arrow."""
        columns: list[Sequence[object]] = list(zip(*rows, strict=True)) if rows else [()] * len(self.names)
        return self.write_columns(dict(zip(self.names, columns, strict=True)))

    def write_columns(self, columns: Mapping[str, Any]) -> bytes:
        """Columns, as Arrow arrays or as sequences of values, as a parquet file."""
        file = io.BytesIO()
        arrays = [_as_array(columns[field.name], field.type) for field in self._schema]
        _parquet.write_table(
            _arrow.Table.from_arrays(arrays, schema=self._schema),
            file,
            row_group_size=ROWS_PER_GROUP,
            version="2.6",
            data_page_version="1.0",
            compression="zstd",
            compression_level=1,
            use_dictionary=[name for name in self.names if name in _REPETITIVE],
            write_statistics=True,
            store_schema=False,
        )
        return file.getvalue()


def _as_array(values: Any, kind: Any) -> Any:  # noqa: ANN401 - pyarrow has no types
    if isinstance(values, (_arrow.Array, _arrow.ChunkedArray)):
        return values if values.type == kind else values.cast(kind)
    return list_column(kind, values)
