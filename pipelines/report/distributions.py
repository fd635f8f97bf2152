"""How long the texts are and how large the media; what each source takes in a cache.

All rows of the tables are counted, one file after the other, by columns, each checked against its digest. An
item that several sources talk about is stored once; it counts whole for each of them, and again as shared, so
the sizes by source add up to more than the cache where sources share pictures.

Costs one reading of the tables and, for the sizes, of the indexes of the feature shards: of every item its
key and a number are held, some 40 bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Final

import polars as pl

from infra.storage import Storage
from infra.tar import read_index
from pipelines.commit import read_object
from pipelines.engine import Progress, no_progress
from pipelines.report.histogram import Histogram
from pipelines.stream.shard_indexes import FEATURE_SUFFIX
from schemas.corpus import FeatureSet, Manifest, ObjectEntry
from schemas.record import MediumKind

TEXT_EDGES: Final = (0.0, *(2.0**power for power in range(4, 17)))
SIDE_EDGES: Final = (
    0.0,
    112.0,
    224.0,
    336.0,
    448.0,
    512.0,
    640.0,
    768.0,
    1024.0,
    1280.0,
    1600.0,
    2048.0,
    4096.0,
)
RATIO_EDGES: Final = (0.0, 0.33, 0.5, 0.67, 0.8, 1.25, 1.5, 2.0, 3.0)
DURATION_EDGES: Final = (0.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
KIB_EDGES: Final = (0.0, *(2.0**power for power in range(2, 21, 2)))


@dataclass(frozen=True, slots=True)
class Distributions:
    """Of all examples and media of a corpus."""

    characters: Histogram = field(default_factory=lambda: Histogram(TEXT_EDGES))
    long_side_px: Histogram = field(default_factory=lambda: Histogram(SIDE_EDGES))
    width_by_height: Histogram = field(default_factory=lambda: Histogram(RATIO_EDGES))
    clip_duration_s: Histogram = field(default_factory=lambda: Histogram(DURATION_EDGES))
    medium_kib: Histogram = field(default_factory=lambda: Histogram(KIB_EDGES))


@dataclass(frozen=True, slots=True)
class SourceShare:
    """What the items that one source talks about take in a cache."""

    source: str
    num_items: int
    num_bytes: int
    num_shared_bytes: int
    """Of items that another source talks about, too."""


def measure_distributions(
    storage: Storage, manifest: Manifest, progress: Progress = no_progress
) -> Distributions:
    """Count every row of both tables.

    Raises:
        CorruptError: when a file is not as it was written.
    """
    found = Distributions()
    num_files = len(manifest.examples) + len(manifest.media)
    for number, entry in enumerate(manifest.examples, start=1):
        found.characters.add(_read(storage, entry, ["num_chars"])["num_chars"].to_numpy())
        progress("report tables", number, num_files)
    columns = ["kind", "width_px", "height_px", "duration_s", "num_bytes"]
    for number, entry in enumerate(manifest.media, start=len(manifest.examples) + 1):
        media = _read(storage, entry, columns)
        sides = media.select(pl.max_horizontal("width_px", "height_px")).to_series()
        found.long_side_px.add(sides.to_numpy())
        found.width_by_height.add((media["width_px"] / media["height_px"]).to_numpy())
        clips = media.filter(pl.col("kind") == MediumKind.VIDEO.value)
        found.clip_duration_s.add(clips["duration_s"].to_numpy())
        found.medium_kib.add((media["num_bytes"] / 1024).to_numpy())
        progress("report tables", number, num_files)
    return found


def measure_shares(storage: Storage, manifest: Manifest, features: FeatureSet) -> list[SourceShare]:
    """What each source takes in a cache, sources in the order of the recipe.

    Raises:
        CorruptError: when a table or an index is not as it was written.
    """
    sizes = _list_item_sizes(storage, features)
    # items do not cross the files of the table, so what is unique in one is unique
    parts = [_sum_file(_read(storage, entry, ["source", "item_key"]), sizes) for entry in manifest.examples]
    if not parts:
        return []
    summed = pl.concat(parts).group_by("source").sum()
    rows = {str(row["source"]): row for row in summed.iter_rows(named=True)}
    none = {"items": 0, "bytes": 0, "shared": 0}
    return [
        SourceShare(source.name, found["items"], found["bytes"], found["shared"])
        for source in manifest.sources
        for found in (rows.get(source.name, none),)
    ]


def _sum_file(examples: pl.DataFrame, sizes: pl.DataFrame) -> pl.DataFrame:
    used = _pack_keys(examples.unique()).join(sizes, on="item_key", how="inner")
    is_shared = pl.len().over("item_key") > 1
    return (
        used.with_columns(shared=pl.when(is_shared).then("bytes").otherwise(0))
        .group_by("source")
        .agg(
            pl.len().cast(pl.Int64).alias("items"),
            pl.col("bytes").sum(),
            pl.col("shared").sum().cast(pl.Int64),
        )
    )


def _list_item_sizes(storage: Storage, features: FeatureSet) -> pl.DataFrame:
    shards = [_read_sizes(read_object(storage, shard.index)) for shard in features.shards]
    return pl.concat([_read_sizes(b""), *shards]).rechunk()


def _read_sizes(index: bytes) -> pl.DataFrame:
    """Keys and sizes of the features that an index lists."""
    members = [one for one in read_index(index) if one.name.endswith(FEATURE_SUFFIX)] if index else []
    columns = {
        "item_key": [one.name.removesuffix(FEATURE_SUFFIX) for one in members],
        "bytes": [one.size for one in members],
    }
    return _pack_keys(pl.DataFrame(columns, schema={"item_key": pl.String, "bytes": pl.Int64}))


def _pack_keys(frame: pl.DataFrame) -> pl.DataFrame:
    """The same, keys as bytes: half of what digits take."""
    return frame.with_columns(pl.col("item_key").str.decode("hex"))


def _read(storage: Storage, entry: ObjectEntry, columns: Sequence[str]) -> pl.DataFrame:
    return pl.read_parquet(BytesIO(read_object(storage, entry)), columns=[*columns])
