"""Rows of an annotation file, streamed: the kind of file is told by its first bytes, never by its name.

A row keeps the bytes that it was read from, so that a reject can be kept whole. A row that is no JSON
comes with the problem instead of a value and reading goes on; where the file itself is broken, so that
nobody can say where the next row begins, reading stops with a `CorruptError` that names row and byte.

Memory is one buffer or one parquet batch, whatever the size of the file. Compressed files are not read.
"""

from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import Final

from pipelines.ingest.json_rows import Row, read_array, read_lines
from pipelines.ingest.parquet_rows import read_parquet
from schemas.errors import ConfigError, CorruptError

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_HEAD_BYTES: Final = 1 << 16
_SPACE: Final = b" \t\r\n"
_SIGNATURES: Final = {
    b"\x1f\x8b": "is compressed with gzip; unpack it first",
    b"PK\x03\x04": "is a zip archive; unpack it first",
    b"\xff\xfe": "is UTF-16; convert it to UTF-8",
    b"\xfe\xff": "is UTF-16; convert it to UTF-8",
}


def read_rows(path: Path, name: str) -> Iterator[Row]:
    """All rows of a JSON list, JSON lines or parquet file, numbered from 0.

    Args:
        path: where the file lies.
        name: what errors call it.

    Raises:
        ConfigError: when it cannot be opened.
        CorruptError: when it is none of these, or broken between rows.
    """
    try:
        with path.open("rb") as file:
            if file.read(4) == b"PAR1":
                yield from read_parquet(path, name)
            else:
                yield from _read_json(file, name)
    except OSError as error:
        raise ConfigError(f"annotations {name}: cannot be read: {error.strerror}") from error


def _read_json(file: BufferedIOBase, name: str) -> Iterator[Row]:
    file.seek(0)
    head = file.read(_HEAD_BYTES)
    for signature, what in _SIGNATURES.items():
        if head.startswith(signature):
            raise CorruptError(f"annotations {name}: the file {what}")
    start = len(_BYTE_ORDER_MARK) if head.startswith(_BYTE_ORDER_MARK) else 0
    text = head[start:].lstrip(_SPACE)
    file.seek(start)
    if text.startswith(b"["):
        yield from read_array(file, name)
    elif text.startswith(b"{") and text.partition(b"\n")[0].strip(_SPACE) != b"{":
        yield from read_lines(file, name)
    elif text.startswith(b"{"):
        raise CorruptError(f"annotations {name}: one JSON object; a list of records is wanted")
    else:
        what = f"it begins with {text[:16]!r}" if text else "it is empty"
        raise CorruptError(f"annotations {name}: neither JSON list, JSON lines nor parquet; {what}")
