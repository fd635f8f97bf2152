"""Diff: what was added to a corpus, removed from it and changed in it, between two builds.

Two corpora, or two manifests of one. Compared are
- totals of each source, and of the corpus;
- examples by id (a digest of source, item and text, so a mended text is one removed and one added; `changed`:
  the same text now stands in another row), items by key (`changed`: other examples are about it), media by
  item and position (`changed`: other facts, or found elsewhere);
- sample shards by name, and for each spec feature shards and rejects.

Two manifests of one digest are not looked into. Tables are read a bucket at a time, where their objects
differ; memory is one file of either side, and the shards' names.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import polars as pl

from infra.storage import Storage
from pipelines.engine import Progress, no_progress
from pipelines.upkeep.compare_rows import Difference, RowKind, TableReader, compare_tables
from schemas.corpus import FeatureReject, FeatureSet, Manifest, ShardEntry

EXAMPLE_COLUMNS: Final = (
    "example_id",
    "source",
    "record_file",
    "record_row",
    "record_id",
    "item_key",
    "modality",
)
"""What an example is about and where it is from; its id covers the text."""
_TOLD_APART: Final = {"sources", "examples", "media", "quarantine", "plan", "shards", "features"}


@dataclass(frozen=True, slots=True)
class Side:
    """One of two corpora."""

    storage: Storage
    manifest: Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusDiff:
    """What differs; `sections` by what is compared, in the order of the work."""

    fields: Mapping[str, tuple[object, object]]
    """Names and totals that differ, with both values."""
    sections: Mapping[str, Difference]

    @property
    def is_empty(self) -> bool:
        """Whether both are the same."""
        return not self.fields and not any(section.counts for section in self.sections.values())


def diff(one: Side, other: Side, progress: Progress = no_progress) -> CorpusDiff:
    """Compare two corpora.

    Raises:
        CorruptError: when a table of either is not as it was written.
    """
    before, after = one.manifest, other.manifest
    if before.digest == after.digest:
        return CorpusDiff(fields={}, sections={})
    sections: dict[str, Difference] = {}
    kinds = [RowKind("example_id", _keep_all), RowKind("item_key", _gather_items)]
    progress("diff", 0, 2)
    sections["examples"], sections["items"] = compare_tables(
        TableReader(one.storage, before.examples, EXAMPLE_COLUMNS),
        TableReader(other.storage, after.examples, EXAMPLE_COLUMNS),
        kinds,
    )
    progress("diff", 1, 2)
    (sections["media"],) = compare_tables(
        TableReader(one.storage, before.media),
        TableReader(other.storage, after.media),
        [RowKind("medium", _name_media)],
    )
    progress("diff", 2, 2)
    sections["quarantine files"] = compare_named(_name_rejects(before), _name_rejects(after))
    sections["leaves of the plan"] = compare_named(
        {leaf.name: leaf for leaf in before.plan}, {leaf.name: leaf for leaf in after.plan}
    )
    sections["shards"] = compare_named(_name_shards(before.shards), _name_shards(after.shards))
    for digest in sorted({*before.features, *after.features}):
        sections |= _compare_features(digest, before, after)
    return CorpusDiff(fields=_compare_fields(before, after), sections=sections)


def compare_named(before: Mapping[str, object], after: Mapping[str, object]) -> Difference:
    """The difference of two sets of named things."""
    difference = Difference()
    difference.note("added", sorted(after.keys() - before.keys()))
    difference.note("removed", sorted(before.keys() - after.keys()))
    both = sorted(before.keys() & after.keys())
    difference.note("changed", [name for name in both if before[name] != after[name]])
    return difference


def _keep_all(rows: pl.DataFrame) -> pl.DataFrame:
    return rows


def _gather_items(rows: pl.DataFrame) -> pl.DataFrame:
    """Items, with all that is said about them."""
    return rows.group_by("item_key").agg(
        pl.col("modality").first(), pl.col("example_id").sort().str.join(",")
    )


def _name_media(rows: pl.DataFrame) -> pl.DataFrame:
    """Media, named by item and place in it."""
    name = pl.concat_str("item_key", pl.lit("."), pl.col("position").cast(pl.String))
    return rows.with_columns(medium=name)


def _name_rejects(manifest: Manifest) -> dict[str, str]:
    """Quarantine files by their names without digests."""
    return {entry.path.rpartition("-")[0]: entry.sha256 for entry in manifest.quarantine}


def _name_shards(shards: Iterable[ShardEntry]) -> dict[str, ShardEntry]:
    return {shard.name: shard for shard in shards}


def _compare_features(digest: str, before: Manifest, after: Manifest) -> dict[str, Difference]:
    """Feature shards and rejects of a spec that either has."""
    one, other = before.features.get(digest), after.features.get(digest)
    return {
        f"features of {digest}": compare_named(
            _name_shards(one.shards if one else ()), _name_shards(other.shards if other else ())
        ),
        f"rejects of {digest}": compare_named(_name_unencoded(one), _name_unencoded(other)),
    }


def _name_unencoded(features: FeatureSet | None) -> dict[str, FeatureReject]:
    return {reject.key: reject for reject in features.rejects} if features else {}


def _compare_fields(before: Manifest, after: Manifest) -> dict[str, tuple[object, object]]:
    """Names and totals that differ: of the corpus, of its sources, of its caches."""
    one, other = _list_fields(before), _list_fields(after)
    return {
        name: (one.get(name), other.get(name))
        for name in [*one, *(name for name in other if name not in one)]
        if one.get(name) != other.get(name)
    }


def _list_fields(manifest: Manifest) -> dict[str, object]:
    """All that a manifest says by itself, without what it lists."""
    fields = manifest.model_dump(mode="json", exclude=_TOLD_APART)
    for source in manifest.sources:
        told = source.model_dump(mode="json", exclude={"name"})
        fields |= {f"source {source.name}: {name}": value for name, value in told.items()}
    for digest, features in manifest.features.items():
        told = features.model_dump(mode="json", exclude={"spec", "shards", "rejects"})
        fields |= {f"features of {digest}: {name}": value for name, value in told.items()}
    return fields
