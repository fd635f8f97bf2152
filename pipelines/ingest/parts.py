"""Rows on their way from the ranges that they were read in to the tables that they end in.

A part is what one range of rows brings: examples, and media of their items. Both are Arrow tables, cut by the
leading bits of the item key into one blob a bucket. Names that a whole part shares are numbers here; the
tables spell them out. Blobs are batches in Arrow's own format, uncompressed.

A part grows in a few flat buffers. A list of a thousand small objects a megabyte would cost more than parsing
does: they lie scattered between what the parser makes and frees, and nothing stays in the processor's cache.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from struct import Struct
from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow  # pyright: ignore[reportMissingTypeStubs]
from jaxtyping import UInt64

from pipelines.ingest.arrow import to_frame
from pipelines.ingest.findings import FoundMedium
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

_FIXED: Final = np.dtype(
    [
        ("item_key", f"V{KEY_BYTES}"),
        ("example_id", f"V{KEY_BYTES}"),
        ("row", "<i8"),
        ("num_chars", "<i4"),
        ("repairs", "<i4"),
        ("modality", "i1"),
    ]
)
_PACK: Final = Struct(f"<{KEY_BYTES}s{KEY_BYTES}sqiib").pack


class Part:
    """What a range of rows brings, row by row, dealt out to buckets by the leading bits of the item key."""

    def __init__(self, bits: int) -> None:
        self.num_examples = 0
        self.num_text_bytes = 0
        """Of all conversations."""
        self._shift = _LEADING_BITS - bits
        self._buckets = [_Bucket() for _ in range(1 << bits)]

    def add(
        self,
        item: KnownItem,
        example_id: bytes,
        row: int,
        record_id: str,
        num_chars: int,
        repairs: int,
        conversation: bytes,
        raw: bytes | None,
    ) -> None:
        """Add an example of an item."""
        key, _, modality, media, _ = item
        bucket = self._buckets[(key[0] << 8 | key[1]) >> self._shift]
        bucket.fixed += _PACK(key, example_id, row, num_chars, repairs, modality)
        bucket.record_ids.append(record_id)
        bucket.text += conversation
        bucket.ends.append(len(bucket.text))
        if raw is not None:
            bucket.raws.append(raw)
        items = bucket.items
        if media and items.setdefault(key, media) is not media:
            items[key] = _choose_places(items[key], media)
        self.num_examples += 1
        self.num_text_bytes += len(conversation)

    def pack_examples(self) -> Iterator[memoryview]:
        """One blob a bucket, rows in their order; empty for a bucket without any."""
        return (bucket.pack_examples() for bucket in self._buckets)

    def pack_media(self) -> Iterator[memoryview]:
        """One blob a bucket; empty for a bucket without any."""
        return (bucket.pack_media() for bucket in self._buckets)


class _Bucket:
    """Columns of the examples of one bucket, and the media of their items."""

    __slots__ = ("ends", "fixed", "items", "raws", "record_ids", "text")

    def __init__(self) -> None:
        self.fixed = bytearray()
        """What has the same size in every row, row by row."""
        self.record_ids: list[str] = []
        self.text = bytearray()
        self.ends = array("i", [0])
        """Of the conversations in the text."""
        self.raws: list[bytes] = []
        """Of all rows, or of none."""
        self.items: dict[bytes, tuple[FoundMedium, ...]] = {}

    def pack_examples(self) -> memoryview:
        """The examples as a batch of Arrow."""
        count = len(self.record_ids)
        if not count:
            return memoryview(b"")
        fixed = np.frombuffer(self.fixed, _FIXED)
        text = [None, _arrow.py_buffer(self.ends), _arrow.py_buffer(self.text)]
        arrays = [
            _take_column(fixed, "item_key"),
            _take_column(fixed, "example_id"),
            _take_column(fixed, "row"),
            _arrow.array(self.record_ids, _arrow.string()),
            _take_column(fixed, "modality"),
            _take_column(fixed, "num_chars"),
            _take_column(fixed, "repairs"),
            _arrow.Array.from_buffers(_arrow.binary(), count, text),
            _arrow.array(self.raws or [None] * count, _arrow.large_binary()),
        ]
        return _serialize(arrays, _EXAMPLES)

    def pack_media(self) -> memoryview:
        """The media as a batch of Arrow."""
        rows = [
            (key, place, *medium.values)
            for key, media in self.items.items()
            for place, medium in enumerate(media)
        ]
        if not rows:
            return memoryview(b"")
        columns = zip(*rows, strict=True)
        arrays = [_arrow.array(values, field.type) for values, field in zip(columns, _MEDIA, strict=True)]
        return _serialize(arrays, _MEDIA)


def _take_column(fixed: Any, name: str) -> Any:  # noqa: ANN401 - no types for fields of numpy, nor for pyarrow
    values = _arrow.py_buffer(np.ascontiguousarray(fixed[name]))
    return _arrow.Array.from_buffers(_EXAMPLES.field(name).type, len(fixed), [None, values])


def _choose_places(some: tuple[FoundMedium, ...], others: tuple[FoundMedium, ...]) -> tuple[FoundMedium, ...]:
    """The same media, each at the smaller of its two places."""
    return tuple([min(pair, key=_place_of) for pair in zip(some, others, strict=True)])


def _place_of(medium: FoundMedium) -> str:
    return medium.location


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


def _serialize(arrays: Sequence[Any], schema: Any) -> memoryview:  # noqa: ANN401 - pyarrow has no types
    return memoryview(_arrow.RecordBatch.from_arrays(arrays, schema=schema).serialize())


def _read(blobs: Iterable[tuple[int, bytes]], schema: Any) -> Any:  # noqa: ANN401 - pyarrow has no types
    tables: list[Any] = []
    for rank, blob in blobs:
        batch = _arrow.ipc.read_record_batch(_arrow.py_buffer(blob), schema)
        ranks = _arrow.array(np.full(len(batch), rank, dtype=np.int32))
        tables.append(_arrow.Table.from_batches([batch]).append_column(_RANK, ranks))
    return _arrow.concat_tables(tables) if tables else None
