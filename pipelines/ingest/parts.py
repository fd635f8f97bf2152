"""Rows on their way from the ranges that they were read in to the tables that they end in.

A part is what one range of rows brings: examples, and media of their items. Both are Arrow tables, cut by the
leading bits of the item key into one blob a bucket. Names that a whole part shares are numbers here; the
tables spell them out. Blobs are batches in Arrow's own format, uncompressed.

A part grows in a few flat buffers. A list of a thousand small objects a megabyte would cost more than parsing
does: they lie scattered between what the parser makes and frees, and nothing stays in the processor's cache.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

import msgspec
import numpy as np
import polars as pl
import pyarrow  # pyright: ignore[reportMissingTypeStubs]
from jaxtyping import UInt64

from pipelines.ingest.arrow import to_frame
from pipelines.ingest.items import KnownItem
from schemas.medium import KEY_BITS

_arrow: Any = pyarrow

KEY_BYTES: Final = KEY_BITS // 8

_EXAMPLES: Final = _arrow.schema(
    [
        ("item_key", _arrow.binary(KEY_BYTES)),
        ("example_id", _arrow.binary(KEY_BYTES)),
        ("row", _arrow.int64()),
        ("record_id", _arrow.string()),
        ("modality", _arrow.int8()),
        ("num_chars", _arrow.int32()),
        ("repairs", _arrow.int32()),
        ("conversation", _arrow.binary()),
        ("raw", _arrow.large_binary()),
    ]
)
"""`raw` is null where no duplicate would be rejected."""
_MEDIA: Final = _arrow.schema(
    [
        ("item_key", _arrow.binary(KEY_BYTES)),
        ("position", _arrow.int32()),
        ("sha256", _arrow.string()),
        ("kind", _arrow.string()),
        ("extension", _arrow.string()),
        ("num_bytes", _arrow.int64()),
        ("width_px", _arrow.int32()),
        ("height_px", _arrow.int32()),
        ("duration_s", _arrow.float64()),
        ("location", _arrow.string()),
    ]
)
_RANK: Final = _arrow.field("rank", _arrow.int32())
_LEADING_BITS: Final = 16
_AS_TUPLE: Final = msgspec.structs.astuple


@dataclass(slots=True)
class Examples:
    """Some examples, column by column."""

    items: list[KnownItem] = field(default_factory=list[KnownItem])
    example_ids: list[bytes] = field(default_factory=list[bytes])
    rows: list[int] = field(default_factory=list[int])
    record_ids: list[str] = field(default_factory=list[str])
    num_chars: list[int] = field(default_factory=list[int])
    repairs: list[int] = field(default_factory=list[int])
    conversations: list[bytes] = field(default_factory=list[bytes])
    raws: list[bytes] = field(default_factory=list[bytes])
    """Of all rows, or of none."""


class Part:
    """What a range of rows brings; dealt out to buckets by the leading bits of the item key when packed."""

    def __init__(self, bits: int) -> None:
        self.num_examples = 0
        self._bits = bits
        self._keys = bytearray()
        self._example_ids = bytearray()
        self._rows = array("q")
        self._record_ids = _Texts()
        self._modalities = array("b")
        self._num_chars = array("i")
        self._repairs = array("i")
        self._conversations = _Texts()
        self._raws: list[bytes] = []
        self._items: dict[KnownItem, None] = {}

    @property
    def num_text_bytes(self) -> int:
        """Of all conversations, and of the ids of their records."""
        return self._conversations.num_bytes + self._record_ids.num_bytes

    def add(self, some: Examples) -> None:
        """Add examples."""
        items = some.items
        self.num_examples += len(items)
        self._keys += b"".join([item.key for item in items])
        self._example_ids += b"".join(some.example_ids)
        self._rows.extend(some.rows)
        self._record_ids.add(some.record_ids)
        self._modalities.extend([item.modality for item in items])
        self._num_chars.extend(some.num_chars)
        self._repairs.extend(some.repairs)
        self._conversations.add_bytes(some.conversations)
        self._raws += some.raws
        self._items.update(dict.fromkeys(items))

    def pack_examples(self) -> Iterator[memoryview]:
        """One blob a bucket, rows in their order; empty for a bucket without any."""
        count = self.num_examples
        raws = _arrow.array(self._raws, _arrow.large_binary()) if self._raws else None
        arrays = [
            _column(_EXAMPLES, "item_key", self._keys),
            _column(_EXAMPLES, "example_id", self._example_ids),
            _column(_EXAMPLES, "row", self._rows),
            self._record_ids.column(_arrow.string()),
            _column(_EXAMPLES, "modality", self._modalities),
            _column(_EXAMPLES, "num_chars", self._num_chars),
            _column(_EXAMPLES, "repairs", self._repairs),
            self._conversations.column(_arrow.binary()),
            _arrow.nulls(count, _arrow.large_binary()) if raws is None else raws,
        ]
        return _deal_out(arrays, _EXAMPLES, self._keys, self._bits)

    def pack_media(self) -> Iterator[memoryview]:
        """One blob a bucket, the media of every item; empty for a bucket without any."""
        items = [item for item in self._items if item.media]
        media = [medium for item in items for medium in item.media]
        keys = b"".join([item.key * len(item.media) for item in items])
        columns: list[tuple[Any, ...]] = list(zip(*map(_AS_TUPLE, media), strict=True)) or [()] * 9
        digests, kinds, extensions, sizes, widths, heights, durations, locations, _ = columns
        arrays = [
            _column(_MEDIA, "item_key", keys),
            _column(_MEDIA, "position", array("i", [n for item in items for n in range(len(item.media))])),
            _texts(digests),
            _texts(kinds),
            _texts(extensions),
            _column(_MEDIA, "num_bytes", array("q", sizes)),
            _column(_MEDIA, "width_px", array("i", widths)),
            _column(_MEDIA, "height_px", array("i", heights)),
            _column(_MEDIA, "duration_s", array("d", durations)),
            _texts(locations),
        ]
        return _deal_out(arrays, _MEDIA, keys, self._bits)


class _Texts:
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

    def column(self, kind: Any) -> Any:  # noqa: ANN401 - pyarrow has no types
        """The column, as Arrow has it."""
        ends = np.zeros(len(self._lengths) + 1, np.int32)
        np.cumsum(np.frombuffer(self._lengths, np.int32), out=ends[1:])
        buffers = [None, _arrow.py_buffer(ends), _arrow.py_buffer(b"".join(self._pieces))]
        return _arrow.Array.from_buffers(kind, len(self._lengths), buffers)

    def _add(self, piece: bytes, texts: Sequence[Sized]) -> None:
        self._pieces.append(piece)
        self.num_bytes += len(piece)
        self._lengths.extend(map(len, texts))


def _texts(values: Sequence[str]) -> Any:  # noqa: ANN401 - pyarrow has no types
    texts = _Texts()
    texts.add(values)
    return texts.column(_arrow.string())


def _column(schema: Any, name: str, values: Any) -> Any:  # noqa: ANN401 - pyarrow has no types
    """A column of values of one size; `_arrow.array` would import pandas to look at them."""
    kind = schema.field(name).type
    data = memoryview(values).cast("B")
    return _arrow.Array.from_buffers(kind, 8 * len(data) // kind.bit_width, [None, _arrow.py_buffer(data)])


def _deal_out(arrays: list[Any], schema: Any, keys: bytes | bytearray, bits: int) -> Iterator[memoryview]:  # noqa: ANN401
    """Rows as one batch of Arrow for each bucket, by the leading bits of their keys."""
    leading = np.frombuffer(keys, ">u2")[:: KEY_BYTES // 2].astype(np.int64) >> (_LEADING_BITS - bits)
    order = np.argsort(leading, kind="stable")
    bounds = np.searchsorted(leading[order], np.arange((1 << bits) + 1))
    places = _arrow.Array.from_buffers(_arrow.int64(), len(order), [None, _arrow.py_buffer(order)])
    rows = _arrow.RecordBatch.from_arrays(arrays, schema=schema).take(places)
    for start, end in pairwise(bounds.tolist()):
        blob = rows.slice(start, end - start).serialize() if start < end else b""
        yield memoryview(blob)


def read_examples_of(blobs: Iterable[tuple[int, bytes]]) -> Any:  # noqa: ANN401 - pyarrow has no types
    """Blobs of examples as one Arrow table, with the rank of the file of each; None for no rows."""
    return _read(blobs, _EXAMPLES)


def read_media_of(blobs: Iterable[tuple[int, bytes]]) -> pl.DataFrame:
    """Blobs of media as one frame, with the rank of the file that each was read from."""
    table = _read(blobs, _MEDIA)
    return to_frame(_MEDIA.append(_RANK).empty_table() if table is None else table)


def split_keys(keys: Any) -> UInt64[np.ndarray, "rows 2"]:  # noqa: ANN401 - pyarrow has no types
    """The leading and the trailing 64 bits of each 16-byte key."""
    fixed = keys.cast(_arrow.binary(KEY_BYTES))
    data = np.frombuffer(
        fixed.buffers()[1], dtype=">u8", count=2 * len(fixed), offset=fixed.offset * KEY_BYTES
    )
    return data.astype(np.uint64).reshape(-1, 2)


def _read(blobs: Iterable[tuple[int, bytes]], schema: Any) -> Any:  # noqa: ANN401 - pyarrow has no types
    tables: list[Any] = []
    for rank, blob in blobs:
        batch = _arrow.ipc.read_record_batch(_arrow.py_buffer(blob), schema)
        ranks = _arrow.array(np.full(len(batch), rank, dtype=np.int32))
        tables.append(_arrow.Table.from_batches([batch]).append_column(_RANK, ranks))
    return _arrow.concat_tables(tables) if tables else None
