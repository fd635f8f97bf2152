"""What the quarantine of a corpus holds: by source and code, how many, and the first of each.

Counted by polars, one file after the other; what is held is one file and a few rows, however many records
were rejected.
"""

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
    if not manifest.quarantine:
        return []
    counted = pl.concat([_count(read_object(storage, entry)) for entry in manifest.quarantine])
    place = ["record_file", "record_row"]
    grouped = (
        counted.sort("source", *place)
        .group_by("source", "code", maintain_order=True)
        .agg(pl.col("count").sum(), pl.col(*place, "message").first())
        .sort(["source", "count", "code"], descending=[False, True, False])
    )
    return [RejectGroup(**row) for row in grouped.iter_rows(named=True)]


def _count(data: bytes) -> pl.DataFrame:
    """One row for each source and code of a file, with the first of them."""
    place = ["record_file", "record_row"]
    return (
        pl.read_parquet(BytesIO(data), columns=["source", "code", *place, "message"])
        .sort("source", *place)
        .group_by("source", "code", maintain_order=True)
        .agg(pl.len().cast(pl.Int64).alias("count"), pl.col(*place, "message").first())
    )
