"""What grouping takes in: parts as Arrow tables and polars frames. Who only writes parts loads no polars."""

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow  # pyright: ignore[reportMissingTypeStubs]
from jaxtyping import UInt64

from pipelines.ingest.columns import repeat_value
from pipelines.ingest.items import KEY_BYTES
from pipelines.ingest.parts import PART_EXAMPLES, PART_MEDIA

_arrow: Any = pyarrow
_polars: Any = pl

_RANK: Final = _arrow.field("rank", _arrow.int32())


def to_frame(table: Any) -> pl.DataFrame:  # noqa: ANN401 - pyarrow has no types
    """An Arrow table as a frame."""
    return pl.DataFrame(_polars.from_arrow(table))


def to_table(frame: pl.DataFrame) -> Any:  # noqa: ANN401 - pyarrow has no types
    """A frame as an Arrow table, of the types that every reader of parquet knows."""
    write: Any = frame.to_arrow
    return write(compat_level=pl.CompatLevel.oldest())


def read_examples_of(blobs: Iterable[tuple[int, bytes]]) -> Any:  # noqa: ANN401 - pyarrow has no types
    """Blobs of examples as one Arrow table, with the rank of the file of each; None for no rows."""
    return _read(blobs, PART_EXAMPLES)


def read_media_of(blobs: Iterable[tuple[int, bytes]]) -> pl.DataFrame:
    """Blobs of media as one frame, with the rank of the file that each was read from."""
    table = _read(blobs, PART_MEDIA)
    return to_frame(PART_MEDIA.append(_RANK).empty_table() if table is None else table)


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
        ranks = repeat_value(_RANK.type, rank, len(batch))
        tables.append(_arrow.Table.from_batches([batch]).append_column(_RANK, ranks))
    return _arrow.concat_tables(tables) if tables else None
