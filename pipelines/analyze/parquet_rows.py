"""Plain rows as a parquet file, for whoever plots or compares what was measured."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow  # pyright: ignore[reportMissingTypeStubs]
import pyarrow.parquet  # pyright: ignore[reportMissingTypeStubs]

_arrow: Any = pyarrow
_parquet: Any = pyarrow.parquet


def write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Rows that name the same columns; types are those of the values."""
    _parquet.write_table(_arrow.Table.from_pylist(rows), path)
