"""Rows on their way from the ranges that they were read in to the tables that they end in.

A part is what one range of rows brings: examples, and media of their items. Both are Arrow tables, cut by the
leading bits of the item key into one blob a bucket. Names that a whole part shares are numbers here; the
tables spell them out. Blobs are batches in Arrow's own format, uncompressed.

A part grows in a few flat buffers. A list of a thousand small objects a megabyte would cost more than parsing
does: they lie scattered between what the parser makes and frees, and nothing stays in the processor's cache.
"""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

import numpy as np
import pyarrow  # pyright: ignore[reportMissingTypeStubs]

from pipelines.ingest.columns import Texts, flat_column, list_column, text_column
from pipelines.ingest.found_media import MEDIA_COLUMNS
from pipelines.ingest.items import KEY_BYTES, ItemTable

_arrow: Any = pyarrow

PART_EXAMPLES: Final = _arrow.schema(
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
PART_MEDIA: Final = _arrow.schema(
    [("item_key", _arrow.binary(KEY_BYTES)), ("position", _arrow.int32()), *MEDIA_COLUMNS]
)
_PLACES: Final = _arrow.schema([("place", _arrow.int64())])
_LEADING_BITS: Final = 16


@dataclass(slots=True)
class Examples:
    """Some examples, column by column."""

    items: list[int] = field(default_factory=list[int])
    """By their numbers in the table of the range."""
    example_ids: list[bytes] = field(default_factory=list[bytes])
    rows: list[int] = field(default_factory=list[int])
    record_ids: list[str] = field(default_factory=list[str])
    num_chars: list[int] = field(default_factory=list[int])
    repairs: list[int] = field(default_factory=list[int])
    """Of the records; those of the items come to them."""
    conversations: list[bytes] = field(default_factory=list[bytes])
    raws: list[bytes] = field(default_factory=list[bytes])
    """Of all rows, or of none."""


class Part:
    """What a range of rows brings; dealt out to buckets by the leading bits of the item key when packed."""

    def __init__(self, bits: int) -> None:
        self.num_examples = 0
        self._bits = bits
        self._items = array("q")
        self._example_ids = bytearray()
        self._rows = array("q")
        self._record_ids = Texts()
        self._num_chars = array("i")
        self._repairs = array("q")
        self._conversations = Texts()
        self._raws: list[bytes] = []

    @property
    def num_text_bytes(self) -> int:
        """Of all conversations, and of the ids of their records."""
        return self._conversations.num_bytes + self._record_ids.num_bytes

    def add(self, some: Examples) -> None:
        """Add examples."""
        self.num_examples += len(some.items)
        self._items.extend(some.items)
        self._example_ids += b"".join(some.example_ids)
        self._rows.extend(some.rows)
        self._record_ids.add(some.record_ids)
        self._num_chars.extend(some.num_chars)
        self._repairs.extend(some.repairs)
        self._conversations.add_bytes(some.conversations)
        self._raws += some.raws

    def pack_examples(self, table: ItemTable) -> Iterator[memoryview]:
        """One blob a bucket, rows in their order; empty for a bucket without any."""
        items = np.frombuffer(self._items, np.int64)
        keys = table.keys_of(items)
        repairs = np.frombuffer(self._repairs, np.int64) | table.repairs_of(items)
        raws = list_column(_arrow.large_binary(), self._raws) if self._raws else None
        arrays = [
            flat_column(PART_EXAMPLES, "item_key", keys),
            flat_column(PART_EXAMPLES, "example_id", self._example_ids),
            flat_column(PART_EXAMPLES, "row", self._rows),
            text_column(_arrow.string(), *self._record_ids.flatten()),
            flat_column(PART_EXAMPLES, "modality", table.modalities_of(items)),
            flat_column(PART_EXAMPLES, "num_chars", self._num_chars),
            flat_column(PART_EXAMPLES, "repairs", repairs.astype(np.int32)),
            text_column(_arrow.binary(), *self._conversations.flatten()),
            _arrow.nulls(self.num_examples, _arrow.large_binary()) if raws is None else raws,
        ]
        return _deal_out(arrays, PART_EXAMPLES, keys, self._bits)

    def pack_media(self, table: ItemTable) -> Iterator[memoryview]:
        """One blob a bucket, the media of every item; empty for a bucket without any."""
        items, positions, places = table.media_of(np.unique(np.frombuffer(self._items, np.int64)))
        keys = table.keys_of(items)
        media = table.media.columns().take(flat_column(_PLACES, "place", places))
        arrays = [
            flat_column(PART_MEDIA, "item_key", keys),
            flat_column(PART_MEDIA, "position", positions),
            *media.columns,
        ]
        return _deal_out(arrays, PART_MEDIA, keys, self._bits)


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
