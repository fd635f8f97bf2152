"""Rows on their way from the ranges that they were read in to the tables that they end in.

A part is what one range of rows brings: examples, and media of their items. Both are Arrow tables, cut by the
leading bits of the item key into one blob a bucket. Names that a whole part shares are numbers here; the
tables spell them out. Arrow's stream format, uncompressed: it is read once, by whoever sits beside the disk's
cache, and costs a fifth of what compressing would.

A part grows column by column in flat buffers that Arrow takes over as they are. A list of a thousand small
objects a megabyte would cost more than parsing does: they lie scattered between what the parser makes and
frees, and nothing stays in the processor's cache.
"""

from array import array
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow  # pyright: ignore[reportMissingTypeStubs]
from jaxtyping import Int64, UInt64

from pipelines.ingest.arrow import to_frame
from pipelines.ingest.findings import FoundMedium
from pipelines.ingest.items import KnownItem
from schemas.medium import KEY_BITS

_arrow: Any = pyarrow

KEY_BYTES: Final = KEY_BITS // 8

EXAMPLE_COLUMNS: Final = (
    ("item_key", _arrow.binary(KEY_BYTES)),
    ("example_id", _arrow.binary(KEY_BYTES)),
    ("row", _arrow.int64()),
    ("record_id", _arrow.string()),
    ("modality", _arrow.int8()),
    ("num_chars", _arrow.int32()),
    ("repairs", _arrow.int32()),
    ("conversation", _arrow.binary()),
    ("raw", _arrow.large_binary()),
)
"""`raw` is null where no duplicate would be rejected."""
MEDIUM_COLUMNS: Final = (
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
)


class Part:
    """What a range of rows brings, row by row."""

    def __init__(self) -> None:
        self._keys = bytearray()
        self._ids = bytearray()
        self._rows = array("q")
        self._record_ids: list[str] = []
        self._modalities = array("b")
        self._num_chars = array("i")
        self._repairs = array("i")
        self._text = bytearray()
        self._ends = array("i", [0])
        self._raws: list[bytes | None] = []
        self._items: dict[bytes, tuple[FoundMedium, ...]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def num_text_bytes(self) -> int:
        """Bytes of all conversations."""
        return len(self._text)

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
        self._keys += key
        self._ids += example_id
        self._rows.append(row)
        self._record_ids.append(record_id)
        self._modalities.append(modality)
        self._num_chars.append(num_chars)
        self._repairs.append(repairs)
        self._text += conversation
        self._ends.append(len(self._text))
        self._raws.append(raw)
        if media and self._items.setdefault(key, media) is not media:
            self._items[key] = _choose_places(self._items[key], media)

    def pack_examples(self, bits: int) -> list[memoryview]:
        """One blob a bucket, in the order of rows."""
        count = len(self)
        flat = (self._keys, self._ids, self._rows, None, self._modalities, self._num_chars, self._repairs)
        arrays = [
            _arrow.Array.from_buffers(kind, count, [None, _arrow.py_buffer(buffer)])
            for (_, kind), buffer in zip(EXAMPLE_COLUMNS, flat, strict=False)
            if buffer is not None
        ]
        text = [None, _arrow.py_buffer(self._ends), _arrow.py_buffer(self._text)]
        arrays.insert(3, _arrow.array(self._record_ids, _arrow.string()))
        arrays.append(_arrow.Array.from_buffers(_arrow.binary(), count, text))
        arrays.append(_arrow.array(self._raws, _arrow.large_binary()))
        return _pack(arrays, EXAMPLE_COLUMNS, bits)

    def pack_media(self, bits: int) -> list[memoryview]:
        """One blob a bucket."""
        rows = [
            (key, place, *medium.values)
            for key, media in self._items.items()
            for place, medium in enumerate(media)
        ]
        columns: Sequence[Sequence[object]] = list(zip(*rows, strict=True)) or [()] * len(MEDIUM_COLUMNS)
        arrays = [
            _arrow.array(values, kind) for values, (_, kind) in zip(columns, MEDIUM_COLUMNS, strict=True)
        ]
        return _pack(arrays, MEDIUM_COLUMNS, bits)


def _choose_places(some: tuple[FoundMedium, ...], others: tuple[FoundMedium, ...]) -> tuple[FoundMedium, ...]:
    """The same media, each at the smaller of its two places."""
    return tuple([min(pair, key=_place_of) for pair in zip(some, others, strict=True)])


def _place_of(medium: FoundMedium) -> str:
    return medium.location


def read_parts(blobs: Iterable[tuple[int, bytes]]) -> Any:  # noqa: ANN401 - pyarrow has no types
    """Blobs as one Arrow table, with the rank of the file that each was read from; None for no rows."""
    tables: list[Any] = []
    for rank, blob in blobs:
        table = _arrow.ipc.open_stream(blob).read_all()
        ranks = _arrow.array(np.full(len(table), rank, dtype=np.int32))
        tables.append(table.append_column("rank", ranks))
    return _arrow.concat_tables(tables) if tables else None


def empty_media() -> pl.DataFrame:
    """No media, with the names of a source as they are added to parts."""
    columns = [_arrow.array([], kind) for _, kind in MEDIUM_COLUMNS]
    names = [name for name, _ in MEDIUM_COLUMNS]
    return to_frame(_arrow.Table.from_arrays(columns, names=names)).with_columns(
        source=pl.lit("", dtype=pl.String)
    )


def split_keys(keys: Any) -> UInt64[np.ndarray, "rows 2"]:  # noqa: ANN401 - pyarrow has no types
    """The leading and the trailing 64 bits of each 16-byte key."""
    fixed = keys.cast(_arrow.binary(KEY_BYTES))
    data = np.frombuffer(
        fixed.buffers()[1], dtype=">u8", count=2 * len(fixed), offset=fixed.offset * KEY_BYTES
    )
    return data.astype(np.uint64).reshape(-1, 2)


def _pack(arrays: Sequence[Any], schema: Sequence[tuple[str, Any]], bits: int) -> list[memoryview]:
    table = _arrow.Table.from_arrays(arrays, names=[name for name, _ in schema])
    if not len(table):
        return [memoryview(b"")] * (1 << bits)
    buckets: Int64[np.ndarray, " rows"] = np.zeros(len(table), dtype=np.int64)
    if bits:
        buckets = (split_keys(arrays[0])[:, 0] >> np.uint64(64 - bits)).astype(np.int64)
    ends = np.cumsum(np.bincount(buckets, minlength=1 << bits)).tolist()
    if bits:
        table = table.take(_arrow.array(np.argsort(buckets, kind="stable")))
    return [
        _write_stream(table.slice(start, end - start)) if end > start else memoryview(b"")
        for start, end in zip([0, *ends[:-1]], ends, strict=True)
    ]


def _write_stream(table: Any) -> memoryview:  # noqa: ANN401 - pyarrow has no types
    sink = _arrow.BufferOutputStream()
    with _arrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return memoryview(sink.getvalue())
