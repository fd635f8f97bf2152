"""Parquet rows without their pictures, and the pictures by row.

Pictures stay on disk when rows are read: a set of them is a thousand times larger than its text, and the
probe reads them elsewhere. What a row's raw bytes are is then a choice: canonical JSON of the other columns.
A cell that cannot be read (text that is no UTF-8) costs its row alone, whose raw bytes are then those of the
cells that can.

Pictures are `image`, a struct of bytes and path, or a list of such under `image` or `images`.
`EmbeddedMedia` holds one row group's pictures at a time, so neighboring rows cost one read, and rows in no
order one row group each. Of row groups too large for that it holds some rows.
"""

import bisect
import io
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate, islice
from pathlib import Path
from typing import Final, cast

import msgspec

from infra.files import open_files
from pipelines.ingest.rows.json_values import RowProblem
from pipelines.ingest.rows.parquet_input import DAMAGE, Batch, ParquetInput, ReadableRow, RowGroup, is_picture
from pipelines.ingest.rows.ranges import RangeKind, RowRange
from schemas.errors import CorruptError, NotFoundError, RejectCode, SampleError
from schemas.record import MediumKind, MediumReference

Pictures = tuple[bytes | None, ...]
"""Of a row; None for one without bytes."""

MAX_HELD_BYTES = 256 << 20
_BATCH_ROWS: Final = 1024
_PICTURES_PER_BATCH: Final = 32

_ENCODE: Final = msgspec.json.Encoder(order="deterministic", enc_hook=str).encode
"""Timestamps in nanoseconds come as classes that JSON knows nothing of: they are written as text."""


@dataclass(frozen=True, slots=True)
class ParquetRows:
    """Some rows of a range."""

    values: list[object]
    """None for a row that has a problem."""
    raw: Callable[[int], bytes]
    problems: dict[int, RowProblem] = field(default_factory=dict[int, RowProblem])


def read_parquet_rows(file: io.RawIOBase, name: str, rows: RowRange) -> Iterator[ParquetRows]:
    """The rows of a range as plain values, without the bytes of pictures.

    Raises:
        CorruptError: when the file is damaged.
    """
    with _open(file, name) as parquet:
        for batch in parquet.batches(range(rows.start, rows.end), parquet.text_leaves, _BATCH_ROWS):
            found = batch.rows()
            problems = {
                index: RowProblem(RejectCode.BAD_TYPE, row.problem)
                for index, row in enumerate(found)
                if row.problem is not None
            }
            values: list[object] = [row.values if row.problem is None else None for row in found]
            yield ParquetRows(values, _RawRows(found).raw, problems)


def scan_parquet_rows(
    file: io.RawIOBase, name: str, rows: RowRange, fields: Sequence[str]
) -> Iterator[tuple[list[tuple[object, ...]], Callable[[int], bytes]]]:
    """Some fields of the rows of a range, and the raw bytes of each row while its batch is the newest.

    Without fields nothing but the footer is read; for raw bytes, the rows as `read_parquet_rows` does.

    Raises:
        CorruptError: when the file is damaged.
    """
    late = _LateRows(read_parquet_rows(file, name, rows))
    first = 0
    with _open(file, name) as parquet:
        leaves = [leaf for leaf in parquet.text_leaves if leaf.partition(".")[0] in fields]
        if leaves:
            batches = parquet.batches(range(rows.start, rows.end), leaves, _BATCH_ROWS)
            found: Iterator[list[tuple[object, ...]]] = (_read_fields(batch, fields) for batch in batches)
        else:
            nothing: tuple[object, ...] = (None,) * len(fields)
            found = ([nothing] * group.num_rows for group in parquet.groups[rows.start : rows.end])
        for values in found:
            yield values, late.raw_from(first)
            first += len(values)


def read_pictures(file: io.RawIOBase, rows: RowRange, name: str = "parquet") -> Iterator[Pictures]:
    """The embedded pictures of every row of a range; none for a row whose column is null.

    Raises:
        CorruptError: when the file is damaged.
    """
    with _open(file, name) as parquet:
        leaves = [leaf for leaf in parquet.leaves if is_picture(leaf)]
        if not leaves:
            for group in parquet.groups[rows.start : rows.end]:
                yield from [()] * group.num_rows
            return
        for batch in parquet.batches(range(rows.start, rows.end), leaves, _PICTURES_PER_BATCH):
            for row in batch.rows():
                yield _find_pictures(row)


class EmbeddedMedia:
    """Pictures inside parquet files, found by `FILE#ROW`, or `FILE#ROW/INDEX` for one of several."""

    def __init__(self, url: str | Path) -> None:
        self._files = open_files(url)
        self._name = ""
        self._first = 0
        """Of the rows whose pictures are held."""
        self._pictures: list[Pictures] = []

    def find(self, reference: MediumReference) -> str:
        """The location is the reference: there is nothing to resolve."""
        return str(reference.path)

    def read(self, location: str, kind: MediumKind) -> bytes:
        """The bytes of a picture; `kind` is that of every embedded medium.

        Raises:
            SampleError: EMPTY_FILE where the row has none, UNREADABLE_FILE where there is no such row.
        """
        name, _, place = location.rpartition("#")
        row, _, index = place.partition("/")
        try:
            pictures = self._read_row(name, int(row))
            data = pictures[int(index or 0)] if pictures else None
        except (CorruptError, NotFoundError, LookupError, ValueError) as error:
            message = f"{location}: no picture that can be read: {error}"
            raise SampleError(RejectCode.UNREADABLE_FILE, message) from error
        if not data:
            raise SampleError(RejectCode.EMPTY_FILE, f"{location}: the row holds no bytes")
        return data

    def _read_row(self, name: str, row: int) -> Pictures:
        if name != self._name or not self._first <= row < self._first + len(self._pictures):
            self._name, self._pictures = "", []
            with self._files.open(name) as file:
                with _open(file, name) as parquet:
                    groups = parquet.groups
                self._first, self._pictures = _read_around(file, name, groups, row)
            self._name = name
        return self._pictures[row - self._first]


def _read_around(
    file: io.RawIOBase, name: str, groups: Sequence[RowGroup], row: int
) -> tuple[int, list[Pictures]]:
    """The pictures of the row group of a row, or of some rows of a large one, and the first of these rows."""
    ends = list(accumulate(group.num_rows for group in groups))
    index = bisect.bisect_right(ends, row)
    if row < 0 or index == len(groups):
        raise LookupError(f"the file has {ends[-1] if ends else 0} rows")
    first, end = ends[index] - groups[index].num_rows, ends[index]
    pictures = read_pictures(file, RowRange(RangeKind.PARQUET, index, index + 1), name)
    if groups[index].picture_bytes <= MAX_HELD_BYTES:
        return first, list(pictures)
    start = row - (row - first) % _PICTURES_PER_BATCH
    return start, list(islice(pictures, start - first, min(end, start + _PICTURES_PER_BATCH) - first))


class _RawRows:
    """Raw bytes of rows, on demand."""

    def __init__(self, rows: Sequence[ReadableRow]) -> None:
        self._rows = rows

    def raw(self, index: int) -> bytes:
        """Canonical JSON of the cells of a row that can be read."""
        return _ENCODE(self._rows[index].values)


class _LateRows:
    """Rows that are read only if somebody asks for one, forward."""

    def __init__(self, batches: Iterator[ParquetRows]) -> None:
        self._batches = batches
        self._batch: ParquetRows | None = None
        self._start = 0

    def raw_from(self, first: int) -> Callable[[int], bytes]:
        """Raw bytes of rows counted from a `first` one."""
        return lambda index: self._raw(first + index)

    def _raw(self, row: int) -> bytes:
        while self._batch is None or row >= self._start + len(self._batch.values):
            self._start += 0 if self._batch is None else len(self._batch.values)
            self._batch = next(self._batches)
        return self._batch.raw(row - self._start)


def _read_fields(batch: Batch, fields: Sequence[str]) -> list[tuple[object, ...]]:
    return [tuple(row.values.get(name) for name in fields) for row in batch.rows()]


def _find_pictures(row: ReadableRow) -> Pictures:
    """The pictures in the cells of a row, those of `image` first."""
    found: list[bytes | None] = []
    for column in sorted(row.values):
        cell = row.values[column]
        structs = cast("list[object]", cell) if isinstance(cell, list) else [] if cell is None else [cell]
        found += [_bytes_of(struct) for struct in structs]
    return tuple(found)


def _bytes_of(struct: object) -> bytes | None:
    data = cast("dict[str, object]", struct).get("bytes") if isinstance(struct, dict) else None
    return data if isinstance(data, bytes) else None


@contextmanager
def _open(file: io.RawIOBase, name: str) -> Generator[ParquetInput]:
    try:
        yield ParquetInput(file)
    except DAMAGE as error:
        raise CorruptError(f"annotations {name}: damaged parquet: {error}; get the file again") from error
