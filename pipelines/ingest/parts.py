"""Rows on their way from the ranges that they were read in to the tables that they end in.

A part is what one range of rows brings: examples, and media of their items. Both are Arrow tables, cut by the
leading bits of the item key into one blob a bucket. Names that a whole part shares are numbers here; the
tables spell them out. Blobs are batches in Arrow's own format, uncompressed.

A part grows column by column in flat buffers that Arrow takes over as they are. A list of a thousand small
objects a megabyte would cost more than parsing does: they lie scattered between what the parser makes and
frees, and nothing stays in the processor's cache.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
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
        bucket.keys += key
        bucket.ids += example_id
        bucket.rows.append(row)
        bucket.record_ids.append(record_id)
        bucket.modalities.append(modality)
        bucket.num_chars.append(num_chars)
        bucket.repairs.append(repairs)
        bucket.text += conversation
        bucket.ends.append(len(bucket.text))
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

    __slots__ = (
        "ends",
        "ids",
        "items",
        "keys",
        "modalities",
        "num_chars",
        "raws",
        "record_ids",
        "repairs",
        "rows",
        "text",
    )

    def __init__(self) -> None:
        self.keys = bytearray()
        self.ids = bytearray()
        self.rows = array("q")
        self.record_ids: list[str] = []
        self.modalities = array("b")
        self.num_chars = array("i")
        self.repairs = array("i")
        self.text = bytearray()
        self.ends = array("i", [0])
        self.raws: list[bytes | None] = []
        self.items: dict[bytes, tuple[FoundMedium, ...]] = {}

    def pack_examples(self) -> memoryview:
        """The examples as a batch of Arrow, from the buffers as they are."""
        arrays = [
            self._flat("item_key", self.keys),
            self._flat("example_id", self.ids),
            self._flat("row", self.rows),
            _arrow.array(self.record_ids, _arrow.string()),
            self._flat("modality", self.modalities),
            self._flat("num_chars", self.num_chars),
            self._flat("repairs", self.repairs),
            self._flat("conversation", self.ends, self.text),
            _arrow.array(self.raws, _arrow.large_binary()),
        ]
        return _serialize(arrays, _EXAMPLES) if self.rows else memoryview(b"")

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

    def _flat(self, name: str, *buffers: object) -> Any:  # noqa: ANN401 - pyarrow has no types
        taken = [None, *(_arrow.py_buffer(buffer) for buffer in buffers)]
        return _arrow.Array.from_buffers(_EXAMPLES.field(name).type, len(self.rows), taken)


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
