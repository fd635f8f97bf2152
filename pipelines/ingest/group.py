"""Grouping: the examples of a bucket of items are sorted by item and written, with the media of the items.

Rows come from every part, in no order that matters: they are sorted by item, id and place, so any engine
gives the same tables. Identical records of a source have the same id at first; from the second on they get
an id of their own, or are rejected where the recipe says `deduplicate`.

Narrow columns are sorted, compared and counted by polars; text is moved once, by Arrow, when its order is
known. The only rows that Python sees one by one are those of repeated records. Memory is one bucket, some
50,000 rows and twice their text.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow  # pyright: ignore[reportMissingTypeStubs]

from infra.storage import Storage
from pipelines.commit import put_object
from pipelines.ingest.arrow import TableSchema
from pipelines.ingest.base import load_old_examples, load_old_media
from pipelines.ingest.columns import repeat_value
from pipelines.ingest.counts import SourceCounts, count_sources
from pipelines.ingest.frames import read_examples_of, read_media_of, split_keys, to_frame, to_table
from pipelines.ingest.items import MODALITIES
from pipelines.ingest.plan import Bucket, PlannedItems, count_views, plan_bucket
from pipelines.ingest.read import ReadPart
from pipelines.ingest.tables import EXAMPLES, MEDIA, QUARANTINE, name_bucket
from pipelines.scatter import Scattered, gather
from schemas.corpus import ObjectEntry
from schemas.errors import RejectCode
from schemas.recipe import ShardLimits, ViewsConfig
from schemas.record import MediumKind, Modality, begin_example_id, end_example_id

_arrow: Any = pyarrow

_DUPLICATE: Final = "an earlier record of the source is identical"


@dataclass(frozen=True, slots=True)
class RankedFile:
    """An annotation file; its rank is its place among all files of the recipe.

    By rank and row the first of identical records is told.
    """

    source: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupResult:
    """The tables of a bucket, and what is in them."""

    bits: str
    examples: ObjectEntry | None = None
    media: ObjectEntry | None = None
    quarantine: tuple[ObjectEntry, ...] = ()
    sources: Mapping[str, SourceCounts] = field(default_factory=dict[str, SourceCounts])
    trees: Mapping[Modality, Bucket] = field(default_factory=dict[Modality, Bucket])
    num_media: int = 0
    num_media_bytes: int = 0
    num_media_uses: int = 0
    key_sum: int = 0
    """Of the keys of all items with media: the same for the same set of items, however it is cut."""


@dataclass(frozen=True, slots=True)
class GroupWorker:
    """Builds the grouping function inside a worker."""

    storage: Storage
    parts: tuple[ReadPart, ...]
    files: tuple[RankedFile, ...]
    part_files: tuple[int, ...]
    """The file that each part was read from, by its place in `files`."""
    deduplicated: frozenset[str]
    """Sources that keep the first of identical records only."""
    views: ViewsConfig
    limits: ShardLimits
    item_bits: int
    old_examples: tuple[ObjectEntry, ...] = ()
    """Tables that the rows are added to."""
    old_media: tuple[ObjectEntry, ...] = ()

    def build(self) -> Callable[[int], GroupResult]:
        """See `Worker.build`."""
        return lambda bucket: _BucketGrouper(self, bucket).group()


class _BucketGrouper:
    """Groups one bucket."""

    def __init__(self, worker: GroupWorker, bucket: int) -> None:
        self._worker = worker
        self._bucket = bucket
        self._name = name_bucket(bucket, worker.item_bits)
        self._bits = self._name if worker.item_bits else ""
        self._files = pl.DataFrame(
            {
                "rank": pl.Series(range(len(worker.files)), dtype=pl.Int32),
                "source": [file.source for file in worker.files],
                "record_file": [file.name for file in worker.files],
            }
        )

    def group(self) -> GroupResult:
        """Read, sort, count and write the bucket; what is written is stored while the rest is counted."""
        with ThreadPoolExecutor(1) as self._puts:
            return self._group()

    def _group(self) -> GroupResult:
        table = self._load_examples()
        if table is None:
            return GroupResult(bits=self._bits)
        narrow = table.drop_columns(["conversation", "raw"])
        index = to_frame(narrow).with_row_index("place")
        kept, duplicates = self._settle_repeats(index.join(self._files, on="rank", how="left"), table)
        examples = self._put("examples", self._name, EXAMPLES, _spell_examples(kept, table))
        quarantine = self._put_duplicates(duplicates, table)
        uses = kept.group_by("item_key").agg(
            pl.col("modality").first(), pl.len().cast(pl.Int64).alias("times_used")
        )
        media = _media_of_items(self._load_media(), uses)
        stored_media = self._put("media", self._name, MEDIA, _spell_media(media))
        items = _sum_items(uses, media, self._worker.views)
        return GroupResult(
            bits=self._bits,
            sources=count_sources(kept, duplicates, items),
            trees={one.modality: plan_bucket(one, self._bits, self._worker.limits) for one in _plan(items)},
            num_media=len(media),
            num_media_bytes=int(media["num_bytes"].sum()),
            num_media_uses=int(media["times_used"].sum()),
            key_sum=_sum_keys(items.filter(pl.col("num_media") > 0)["item_key"]),
            examples=examples.result(),
            media=stored_media.result(),
            quarantine=tuple(one.result() for one in quarantine),
        )

    def _load_examples(self) -> Any:  # noqa: ANN401 - pyarrow has no types
        """Examples of the bucket with the rank of their file, and whether they were there before."""
        worker = self._worker
        new = read_examples_of(self._gather([part.examples for part in worker.parts]))
        old = load_old_examples(worker.storage, worker.old_examples, self._bits)
        tables: list[Any] = []
        if new is not None:
            tables.append(new.append_column("is_old", repeat_value(_arrow.int8(), 0, len(new))))
        if old is not None:
            ranked = old.join(self._files, on=["source", "record_file"], how="left")
            table = to_table(ranked.with_columns(is_old=pl.lit(1, dtype=pl.Int8)))
            schema = tables[0].schema if tables else None
            tables.append(table.select(schema.names).cast(schema) if schema else table)
        return _arrow.concat_tables(tables).combine_chunks() if tables else None

    def _load_media(self) -> pl.DataFrame:
        """Media of the items of the bucket, as often as parts name them."""
        worker = self._worker
        new = read_media_of(self._gather([part.media for part in worker.parts]))
        named = new.join(self._files, on="rank", how="left")
        old = load_old_media(worker.storage, worker.old_media, self._bits)
        return pl.concat([named, old], how="diagonal") if old is not None else named

    def _gather(self, parts: Sequence[Scattered]) -> Iterator[tuple[int, bytes]]:
        """Blobs of the bucket, each with the rank of the file that it was read from."""
        blobs = gather(self._worker.storage, parts, self._bucket)
        return ((self._worker.part_files[place], blob) for place, blob in blobs)

    def _settle_repeats(self, index: pl.DataFrame, table: Any) -> tuple[pl.DataFrame, pl.DataFrame]:  # noqa: ANN401
        """The examples that are kept, sorted, each with an id of its own, and those that are duplicates."""
        is_deduplicated = pl.col("source").is_in(list(self._worker.deduplicated))
        comes_late = is_deduplicated & (pl.col("is_old") == 0)
        ordered = index.sort("item_key", "example_id", comes_late, "rank", "row")
        is_first = pl.col("example_id") != pl.col("example_id").shift(1)
        ordered = ordered.with_columns(is_repeat=~is_first.fill_null(value=True))
        if not ordered["is_repeat"].any():
            return ordered, ordered.clear()
        ordered = ordered.with_columns(occurrence=pl.col("place").cum_count().over("example_id") - 1)
        is_duplicate = pl.col("is_repeat") & is_deduplicated
        kept, duplicates = ordered.filter(~is_duplicate), ordered.filter(is_duplicate)
        repeated = kept.filter(pl.col("is_repeat"))
        texts = table.column("conversation").take(repeated["place"].to_arrow()).to_pylist()
        names = repeated.select("source", "item_key", "occurrence").iter_rows()
        ids = [
            _name_repeat(source, key, occurrence, text)
            for (source, key, occurrence), text in zip(names, texts, strict=True)
        ]
        named = repeated.with_columns(example_id=pl.Series(ids, dtype=pl.Binary))
        firsts = kept.filter(~pl.col("is_repeat"))
        return pl.concat([firsts, named]).sort("item_key", "example_id"), duplicates

    def _put_duplicates(self, duplicates: pl.DataFrame, table: Any) -> list[Future[ObjectEntry]]:  # noqa: ANN401
        named = duplicates.with_columns(
            pl.col("row").alias("record_row"),
            pl.lit(RejectCode.DUPLICATE_RECORD.value).alias("code"),
            pl.lit(_DUPLICATE).alias("message"),
        ).sort("rank", "row")
        groups = named.partition_by("source", maintain_order=True, as_dict=True)
        return [
            self._put(
                "quarantine",
                f"{source}-duplicates-{self._name}",
                QUARANTINE,
                _columns_of(frame) | {"raw": table.column("raw").take(frame["place"].to_arrow())},
            )
            for (source,), frame in sorted(groups.items())
        ]

    def _put(
        self, folder: str, name: str, schema: TableSchema, columns: Mapping[str, Any]
    ) -> Future[ObjectEntry]:
        """Write a table; disk or network take it while this goes on."""
        num_rows = len(columns[schema.names[0]])
        data = schema.write_columns(columns)
        return self._puts.submit(put_object, self._worker.storage, folder, name, "parquet", data, num_rows)


def _name_repeat(source: str, item_key: bytes, occurrence: int, conversation: bytes) -> bytes:
    return end_example_id(begin_example_id(source, item_key.hex(), occurrence), conversation)


def _media_of_items(media: pl.DataFrame, uses: pl.DataFrame) -> pl.DataFrame:
    """One row for each medium of each item, sorted, at the smallest of its places."""
    return (
        media.sort("item_key", "position", "source", "location")
        .unique(["item_key", "position"], keep="first", maintain_order=True)
        .join(uses.select("item_key", "times_used"), on="item_key", how="inner", maintain_order="left")
    )


def _sum_items(uses: pl.DataFrame, media: pl.DataFrame, views: ViewsConfig) -> pl.DataFrame:
    """All items, sorted, with number, bytes and views of their media."""
    clips = media.filter(pl.col("kind") == MediumKind.VIDEO.value)
    clip_views = [count_views(MediumKind.VIDEO, duration_s, views) for duration_s in clips["duration_s"]]
    counted = clips.select("item_key", "position").with_columns(
        clip_views=pl.Series(clip_views, dtype=pl.Int64)
    )
    picture_views = count_views(MediumKind.IMAGE, 0.0, views)
    sums = (
        media.join(counted, on=["item_key", "position"], how="left")
        .with_columns(num_views=pl.col("clip_views").fill_null(picture_views))
        .group_by("item_key")
        .agg(pl.len().cast(pl.Int64).alias("num_media"), pl.col("num_bytes", "num_views").sum())
    )
    return uses.join(sums, on="item_key", how="left").fill_null(0).sort("item_key")


def _plan(items: pl.DataFrame) -> Iterator[PlannedItems]:
    for members in items.partition_by("modality"):
        yield PlannedItems(
            MODALITIES[int(members["modality"][0])],
            split_keys(members["item_key"].to_arrow()),
            members["num_bytes"].to_numpy(),
            members["num_views"].to_numpy(),
        )


def _sum_keys(keys: pl.Series) -> int:
    """The sum of keys as whole numbers, added up by quarters."""
    quarters = split_keys(keys.to_arrow()).view(np.uint32).astype(np.uint64).sum(axis=0).tolist()
    return sum(quarter << shift for quarter, shift in zip(quarters, (64, 96, 0, 32), strict=True))


def _spell_examples(kept: pl.DataFrame, table: Any) -> dict[str, Any]:  # noqa: ANN401 - pyarrow has no types
    """The columns of the table, names in words."""
    names = [modality.value for modality in MODALITIES]
    spelled = kept.with_columns(
        pl.col("example_id", "item_key").bin.encode("hex"),
        modality=pl.col("modality").replace_strict(range(len(names)), names, return_dtype=pl.String),
        record_row=pl.col("row"),
    )
    conversations = table.column("conversation").take(kept["place"].to_arrow())
    return _columns_of(spelled) | {"conversation": conversations}


def _spell_media(media: pl.DataFrame) -> dict[str, Any]:
    return _columns_of(media.with_columns(pl.col("item_key").bin.encode("hex")))


def _columns_of(frame: pl.DataFrame) -> dict[str, Any]:
    table = to_table(frame)
    return dict(zip(table.column_names, table.columns, strict=True))
