"""What the quarantine of a corpus holds: by source and code, how many, and the first of each.

Counted by polars over the parquet files, one source after the other; what comes back is a few rows, however
many records were rejected.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO

import polars as pl

from infra.storage import Storage
from pipelines.commit import read_object
from schemas.corpus import Manifest


@dataclass(frozen=True, slots=True)
class RejectGroup:
    """The rejects of one source and code."""

    source: str
    code: str
    count: int
    record_file: str
    """Of the first one, in the order of files and rows."""
    record_row: int
    message: str


def group_rejects(storage: Storage, manifest: Manifest) -> list[RejectGroup]:
    """Rejects by source and code, sources in order, the most frequent code first.

    Raises:
        CorruptError: when a quarantine file is not as it was written.
    """
    return [group for entry in manifest.quarantine for group in _group(read_object(storage, entry))]


def _group(data: bytes) -> Iterator[RejectGroup]:
    columns = ["source", "code", "record_file", "record_row", "message"]
    first = pl.col("record_file", "record_row", "message").first()
    grouped = (
        pl.read_parquet(BytesIO(data), columns=columns)
        .sort("source", "record_file", "record_row")
        .group_by("source", "code", maintain_order=True)
        .agg(pl.len().cast(pl.Int64).alias("count"), first)
        .sort(["source", "count", "code"], descending=[False, True, False])
    )
    for row in grouped.iter_rows(named=True):
        yield RejectGroup(**row)
