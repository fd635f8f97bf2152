"""Columns that are flat buffers, as Arrow has them: they grow, join and travel without an object a value."""

from array import array
from collections.abc import Sequence, Sized
from typing import Any

import numpy as np
import pyarrow  # pyright: ignore[reportMissingTypeStubs]

_arrow: Any = pyarrow


class Texts:
    """A column of texts that grows, in a few large pieces."""

    __slots__ = ("_lengths", "_pieces", "num_bytes")

    def __init__(self) -> None:
        self.num_bytes = 0
        self._pieces: list[bytes] = []
        self._lengths = array("i")

    def add(self, texts: Sequence[str]) -> None:
        """Add texts."""
        joined = "".join(texts)
        if joined.isascii():
            self._add(joined.encode(), texts)
        else:
            self.add_bytes([text.encode() for text in texts])

    def add_bytes(self, texts: list[bytes]) -> None:
        """Add texts that are encoded."""
        self._add(b"".join(texts), texts)

    def flatten(self) -> tuple[bytes, bytes]:
        """The number of bytes of each, as 32-bit numbers, and all of them in a row."""
        return self._lengths.tobytes(), b"".join(self._pieces)

    def _add(self, piece: bytes, texts: Sequence[Sized]) -> None:
        self._pieces.append(piece)
        self.num_bytes += len(piece)
        self._lengths.extend(map(len, texts))


def text_column(kind: Any, lengths: bytes, data: bytes) -> Any:  # noqa: ANN401 - pyarrow has no types
    """A column of texts, or of bytes, that stand in a row."""
    each = np.frombuffer(lengths, np.int32)
    ends = np.zeros(len(each) + 1, np.int32)
    np.cumsum(each, out=ends[1:])
    buffers = [None, _arrow.py_buffer(ends), _arrow.py_buffer(data)]
    return _arrow.Array.from_buffers(kind, len(each), buffers)


def flat_column(schema: Any, name: str, values: Any) -> Any:  # noqa: ANN401 - pyarrow has no types
    """A column of values of one size; `_arrow.array` would import pandas to look at them."""
    kind = schema.field(name).type
    data = memoryview(values).cast("B")
    return _arrow.Array.from_buffers(kind, 8 * len(data) // kind.bit_width, [None, _arrow.py_buffer(data)])
