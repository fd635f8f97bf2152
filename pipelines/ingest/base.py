"""Tables of an earlier run as frames of parts, for rows to be added to them.

Examples get the id again that they would have as the first of their kind: which of identical records is the
first is settled anew, together with the rows that are added.
"""

from collections.abc import Iterable
from io import BytesIO

import polars as pl

from infra.storage import Storage
from pipelines.commit import read_object
from pipelines.ingest.items import MODALITIES
from pipelines.ingest.tables import prefix_of
from schemas.corpus import ObjectEntry
from schemas.record import begin_example_id, end_example_id


def load_old_examples(storage: Storage, entries: Iterable[ObjectEntry], bits: str) -> pl.DataFrame | None:
    """Examples of a bucket that were written before, with the names of their source and file."""
    table = _load(storage, entries, bits)
    if table is None:
        return None
    rows = table.select("source", "item_key", "conversation").iter_rows()
    ids = [end_example_id(begin_example_id(source, key), text) for source, key, text in rows]
    numbers = {modality.value: number for number, modality in enumerate(MODALITIES)}
    return table.select(
        pl.col("item_key").str.decode("hex"),
        pl.Series("example_id", ids, dtype=pl.Binary),
        pl.col("record_row").alias("row"),
        "record_id",
        pl.col("modality").replace_strict(numbers, return_dtype=pl.Int8),
        "num_chars",
        pl.lit(0, dtype=pl.Int32).alias("repairs"),
        "conversation",
        pl.lit(None, dtype=pl.Binary).alias("raw"),
        "source",
        "record_file",
    )


def load_old_media(storage: Storage, entries: Iterable[ObjectEntry], bits: str) -> pl.DataFrame | None:
    """Media of a bucket that were written before, with the names of their source."""
    table = _load(storage, entries, bits)
    if table is None:
        return None
    return table.drop("times_used").with_columns(pl.col("item_key").str.decode("hex"))


def _load(storage: Storage, entries: Iterable[ObjectEntry], bits: str) -> pl.DataFrame | None:
    frames = [
        pl.read_parquet(BytesIO(read_object(storage, entry))) for entry in entries if prefix_of(entry) == bits
    ]
    return pl.concat(frames) if frames else None
