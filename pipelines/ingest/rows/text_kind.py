"""What kind of annotation file this is, by its first bytes and never by its name."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from schemas.errors import CorruptError

HEAD_BYTES: Final = 1 << 16
GZIP_MAGIC: Final = b"\x1f\x8b"
PARQUET_MAGIC: Final = b"PAR1"

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_SPACE: Final = b" \t\r\n"
_SIGNATURES: Final = {
    PARQUET_MAGIC: "is parquet inside gzip; unpack it first",
    GZIP_MAGIC: "is packed with gzip twice; unpack it first",
    b"PK\x03\x04": "is a zip archive; unpack it first",
    b"\xff\xfe": "is UTF-16; convert it to UTF-8",
    b"\xfe\xff": "is UTF-16; convert it to UTF-8",
}


class TextKind(StrEnum):
    """How rows follow each other."""

    ARRAY = "array"
    LINES = "lines"


@dataclass(frozen=True, slots=True)
class TextStart:
    """The kind of a text, and where its first row may begin: after the mark, after the bracket."""

    kind: TextKind
    offset: int


def tell_text_kind(head: bytes, name: str) -> TextStart:
    """Tell a JSON list from JSON lines by the first `HEAD_BYTES` of a file.

    Args:
        head: all bytes when the file is shorter.
        name: what errors call the file.

    Raises:
        CorruptError: when it is neither, with the way out where there is one.
    """
    for signature, what in _SIGNATURES.items():
        if head.startswith(signature):
            raise CorruptError(f"annotations {name}: the file {what}")
    mark = len(_BYTE_ORDER_MARK) if head.startswith(_BYTE_ORDER_MARK) else 0
    text = head[mark:].lstrip(_SPACE)
    offset = len(head) - len(text)
    if text.startswith(b"["):
        return TextStart(TextKind.ARRAY, offset + 1)
    if text.startswith(b"{"):
        if text.partition(b"\n")[0].strip(_SPACE) == b"{":
            raise CorruptError(f"annotations {name}: one JSON object; a list of records is wanted")
        return TextStart(TextKind.LINES, mark)
    what = f"it begins with {text[:16]!r}" if text else "it is empty"
    raise CorruptError(f"annotations {name}: neither JSON list, JSON lines nor parquet; {what}")
