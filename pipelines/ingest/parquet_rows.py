"""Parquet rows without their pictures, and the pictures by row.

`read_parquet` leaves the column `image.bytes` on disk: a set of pictures is a thousand times larger than
its text, and the probe reads them elsewhere. What a row's raw bytes are is then a choice: canonical JSON
of the other columns. A cell that cannot be read (text that is no UTF-8) costs its row alone, whose raw
bytes are then those of the cells that can.

`EmbeddedMedia` holds one row group's pictures at a time, so neighbouring rows cost one read.
"""

import bisect
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final, cast

import msgspec

from pipelines.ingest.arrow import ARROW_ERRORS, Column, ParquetFile
from pipelines.ingest.json_rows import Row
from schemas.errors import CorruptError, RejectCode, SampleError
from schemas.record import MediumKind, MediumReference

BYTES_COLUMN: Final = "image.bytes"

_ENCODE: Final = msgspec.json.Encoder(order="deterministic", enc_hook=str).encode
"""Timestamps in nanoseconds come as classes that JSON knows nothing of: they are written as text."""


def read_parquet(path: Path, name: str) -> Iterator[Row]:
    """All rows of a parquet file as plain values, without the bytes of embedded pictures.

    Raises:
        CorruptError: when the file is damaged.
    """
    number = 0
    try:
        with closing(ParquetFile(path)) as file:
            for row in file.readable_rows(_leaves_to_read(file.leaves)):
                value = row.values if row.problem is None else None
                yield Row(number, _ENCODE(row.values), value, row.problem, RejectCode.BAD_TYPE)
                number += 1
    except ARROW_ERRORS as error:
        raise CorruptError(f"annotations {name}: row {number} or later: damaged parquet: {error}") from error


class EmbeddedMedia:
    """Pictures inside parquet files, found by `FILE#ROW`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = ""
        self._starts: list[int] = []
        self._group = -1
        self._pictures: Column | None = None

    def find(self, reference: MediumReference) -> str:
        """The location is the reference: there is nothing to resolve."""
        return str(reference.path)

    def read(self, location: str, kind: MediumKind) -> bytes:
        """The bytes of the picture in a row; `kind` is that of every embedded medium.

        Raises:
            SampleError: EMPTY_FILE where the row has none, UNREADABLE_FILE where there is no such column.
        """
        name, _, number = location.rpartition("#")
        try:
            value = self._read_value(name, int(number))
        except (*ARROW_ERRORS, LookupError, ValueError) as error:
            message = f"{location}: no column {BYTES_COLUMN} that can be read: {error}"
            raise SampleError(RejectCode.UNREADABLE_FILE, message) from error
        data = cast("dict[str, object]", value).get("bytes") if isinstance(value, dict) else None
        if not isinstance(data, bytes):
            raise SampleError(RejectCode.EMPTY_FILE, f"{location}: 'image.bytes' is null")
        return data

    def _read_value(self, name: str, number: int) -> object:
        if name != self._file:
            with closing(ParquetFile(self.folder / name)) as file:
                rows = file.group_rows
            self._starts = [sum(rows[:index]) for index in range(len(rows))]
            self._file, self._group = name, -1
        group = bisect.bisect_right(self._starts, number) - 1
        if self._pictures is None or group != self._group:
            with closing(ParquetFile(self.folder / name)) as file:
                self._pictures = file.read_group(group, BYTES_COLUMN)
            self._group = group
        return self._pictures.value(number - self._starts[group])


def _leaves_to_read(leaves: list[str]) -> list[str]:
    """All columns but the pictures; those too when nothing else tells whether a row has one."""
    siblings = [leaf for leaf in leaves if leaf.startswith("image.") and leaf != BYTES_COLUMN]
    return [leaf for leaf in leaves if leaf != BYTES_COLUMN or not siblings]
