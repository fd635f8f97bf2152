"""Columns that are flat buffers, as Arrow has them: they grow, join and travel without an object a value.

Nothing here lets `pyarrow.array` look at values: to see whether they are of pandas it imports that, which
takes half a second of every worker that is started.
"""

from array import array
from collections.abc import Sequence, Sized
from typing import Any, Final

import numpy as np
import pyarrow  # pyright: ignore[reportMissingTypeStubs]

_arrow: Any = pyarrow

_CODES: Final = {
    _arrow.int8(): "b",
    _arrow.int32(): "i",
    _arrow.int64(): "q",
    _arrow.float64(): "d",
}
"""How `array` names the types of numbers."""


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
    ends = np.zeros(len(each) + 1, np.int64 if kind == _arrow.large_binary() else np.int32)
    np.cumsum(each, out=ends[1:])
    buffers = [None, _arrow.py_buffer(ends), _arrow.py_buffer(data)]
    return _arrow.Array.from_buffers(kind, len(each), buffers)


def flat_column(schema: Any, name: str, values: Any) -> Any:  # noqa: ANN401 - pyarrow has no types
    """A column of values of one size."""
    kind = schema.field(name).type
    data = memoryview(values).cast("B")
    return _arrow.Array.from_buffers(kind, 8 * len(data) // kind.bit_width, [None, _arrow.py_buffer(data)])


def list_column(kind: Any, values: Sequence[Any]) -> Any:  # noqa: ANN401 - pyarrow has no types
    """A column of plain values: numbers, texts or bytes."""
    code = _CODES.get(kind)
    if code is not None:
        numbers = array(code, values)
        return _arrow.Array.from_buffers(kind, len(numbers), [None, _arrow.py_buffer(numbers)])
    texts = Texts()
    texts.add_bytes([one if isinstance(one, bytes) else one.encode() for one in values])
    return text_column(kind, *texts.flatten())


def repeat_value(kind: Any, value: int, count: int) -> Any:  # noqa: ANN401 - pyarrow has no types
    """A column of one number, over and over."""
    numbers = array(_CODES[kind], [value]) * count
    return _arrow.Array.from_buffers(kind, count, [None, _arrow.py_buffer(numbers)])
