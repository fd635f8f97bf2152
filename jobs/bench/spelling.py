"""Rows as the bytes of a file: a JSON array, JSON lines, either of them inside gzip, or parquet.

Arrays are spelled as the published ones are, compact or indented, with or without escapes. Parquet has the
columns of LLaVA-OneVision and LLaVA-NeXT, pictures in the row, and a row group for every batch of rows. Rows
come in batches, so memory is one batch whatever the size of the file.

Text has the same bytes everywhere; gzip and parquet depend on the versions of zlib and pyarrow, too.
"""

import gzip
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, Literal

import msgspec
import pyarrow  # pyright: ignore[reportMissingTypeStubs]
import pyarrow.parquet  # pyright: ignore[reportMissingTypeStubs]

from jobs.bench.rows import Row

_arrow: Any = pyarrow
_parquet: Any = pyarrow.parquet

_BEYOND_ASCII: Final = re.compile(r"[^\x00-\x7f]+")
_SUFFIXES: Final = {"array": ".json", "lines": ".jsonl", "parquet": ".parquet"}
_ENCODER: Final = msgspec.json.Encoder()
_PICTURE: Final = _arrow.struct([("bytes", _arrow.binary()), ("path", _arrow.string())])
_TURNS: Final = _arrow.list_(_arrow.struct([("from", _arrow.string()), ("value", _arrow.string())]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Spelling:
    """How rows stand in a file."""

    container: Literal["array", "lines", "parquet"] = "array"
    indent: int = 0
    """Of an array."""
    escapes: bool = False
    """Whether characters beyond ASCII are escaped, as Python does unless told otherwise."""
    is_packed: bool = False
    """Text inside gzip."""
    lists_pictures: bool = False
    """Of parquet: `image` is a list of pictures and not one."""

    @property
    def suffix(self) -> str:
        """What names of such files end with."""
        return _SUFFIXES[self.container] + ".gz" * self.is_packed


COMPACT: Final = Spelling()
"""An array in one line."""


def write_rows(file: BinaryIO, batches: Iterable[Sequence[Row]], spelling: Spelling) -> None:
    """Write rows, which come in batches."""
    if spelling.container == "parquet":
        _write_parquet(file, batches, spelling)
    elif spelling.is_packed:
        with gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as packed:
            packed.writelines(_spell(batches, spelling))
    else:
        file.writelines(_spell(batches, spelling))


def _write_parquet(file: BinaryIO, batches: Iterable[Sequence[Row]], spelling: Spelling) -> None:
    columns = {
        "id": _arrow.string(),
        "image": _arrow.list_(_PICTURE) if spelling.lists_pictures else _PICTURE,
        "conversations": _TURNS,
        "data_source": _arrow.string(),
    }
    schema = _arrow.schema(columns)
    with _parquet.ParquetWriter(file, schema, compression="snappy") as writer:
        for rows in batches:
            writer.write_table(_arrow.Table.from_pylist(rows, schema))


def _spell(batches: Iterable[Sequence[Row]], spelling: Spelling) -> Iterator[bytes]:
    """The text of a file, piece by piece."""
    pieces = _spell_array(batches, spelling.indent)
    if spelling.container == "lines":
        pieces = (_ENCODER.encode_lines(rows) for rows in batches)
    return map(_escape, pieces) if spelling.escapes else iter(pieces)


def _spell_array(batches: Iterable[Sequence[Row]], indent: int) -> Iterator[bytes]:
    yield b"["
    for index, rows in enumerate(batches):
        data = _ENCODER.encode(rows)
        if indent:
            data = msgspec.json.format(data, indent=indent).removesuffix(b"\n]")
        else:
            data = data.removesuffix(b"]")
        yield (b"," if index else b"") + data[1:]
    yield b"\n]" if indent else b"]"


def _escape(data: bytes) -> bytes:
    return _BEYOND_ASCII.sub(_spell_units, data.decode()).encode("ascii")


def _spell_units(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be").hex()
    return "".join(f"\\u{units[start : start + 4]}" for start in range(0, len(units), 4))
