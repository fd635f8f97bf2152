"""What each source has in a bucket of items, counted over columns by polars."""

from dataclasses import dataclass, field

import polars as pl

from pipelines.ingest.items import REPAIR_BITS


@dataclass(slots=True)
class SourceCounts:
    """What a source has in a bucket, or in all."""

    written: int = 0
    duplicates: int = 0
    """Rejected."""
    media: int = 0
    """Uses by the examples."""
    unique_media: int = 0
    media_bytes: int = 0
    """Of all uses: what storing a medium with each example would take."""
    unique_media_bytes: int = 0
    repairs: dict[str, int] = field(default_factory=dict[str, int])

    def add(self, other: "SourceCounts") -> None:
        """Add what another bucket has."""
        self.written += other.written
        self.duplicates += other.duplicates
        self.media += other.media
        self.unique_media += other.unique_media
        self.media_bytes += other.media_bytes
        self.unique_media_bytes += other.unique_media_bytes
        for name, count in other.repairs.items():
            self.repairs[name] = self.repairs.get(name, 0) + count


def count_sources(
    examples: pl.DataFrame, duplicates: pl.DataFrame, items: pl.DataFrame
) -> dict[str, SourceCounts]:
    """What each source has.

    Args:
        examples: those that are kept, with `source`, `item_key` and `repairs`.
        duplicates: those that are rejected, with `source`.
        items: `item_key`, `num_media` and `num_bytes` of each item.
    """
    counts: dict[str, SourceCounts] = {}
    used = examples.select("source", "item_key", "repairs").join(items, on="item_key", how="left")
    sums = [pl.col("num_media").sum(), pl.col("num_bytes").sum()]
    for source, *values in used.group_by("source").agg(pl.len(), *sums).iter_rows():
        one = counts.setdefault(source, SourceCounts())
        one.written, one.media, one.media_bytes = values
    for source, *values in used.unique(["source", "item_key"]).group_by("source").agg(*sums).iter_rows():
        counts[source].unique_media, counts[source].unique_media_bytes = values
    for source, number in duplicates.group_by("source").len().iter_rows():
        counts.setdefault(source, SourceCounts()).duplicates = number
    repaired = used.filter(pl.col("repairs") != 0)
    for repair, bit in REPAIR_BITS.items():
        of_kind = repaired.filter(pl.col("repairs") & bit != 0)
        for source, number in of_kind.group_by("source").len().iter_rows():
            counts[source].repairs[repair.value] = number
    return counts
