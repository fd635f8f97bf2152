"""Totals in words and as plain values: what a data command ends with."""

from collections import Counter
from collections.abc import Iterable, Mapping

from schemas.corpus import FeatureSet, Manifest, SourceTotals

OVER_BUDGET_STATUS = 3


def count_rejects(sources: Iterable[SourceTotals]) -> dict[str, int]:
    """Rejected records by code, most frequent first."""
    counts: Counter[str] = Counter()
    for source in sources:
        counts.update(source.rejects)
    return dict(counts.most_common())


def ingest_values(manifest: Manifest) -> dict[str, object]:
    """Totals of ingest as plain values."""
    return {
        "read": sum(source.read for source in manifest.sources),
        "written": sum(source.written for source in manifest.sources),
        "rejected": sum(source.rejected for source in manifest.sources),
        "not_taken": sum(source.read - source.taken for source in manifest.sources),
        "rejects": count_rejects(manifest.sources),
        "media": manifest.num_media_uses,
        "unique_media": manifest.num_media,
        "media_bytes": manifest.num_media_bytes,
        "sources": {source.name: source.model_dump(mode="json") for source in manifest.sources},
    }


def ingest_lines(manifest: Manifest) -> list[str]:
    """Totals of ingest in words: one line per source, then the sum that must balance."""
    lines = [_source_line(source) for source in manifest.sources]
    read = sum(source.read for source in manifest.sources)
    written = sum(source.written for source in manifest.sources)
    rejected = sum(source.rejected for source in manifest.sources)
    not_taken = read - written - rejected
    balance = f"ingest: read {read} = written {written} + rejected {rejected}"
    lines.append(balance + (f" + not taken {not_taken}" if not_taken else ""))
    lines.append(
        f"media: {manifest.num_media_uses} uses of {manifest.num_media} unique media, "
        f"{in_mebibytes(manifest.num_media_bytes)}"
    )
    return lines


def _source_line(source: SourceTotals) -> str:
    parts = [f"  {source.name}: read {source.read}, written {source.written}, rejected {source.rejected}"]
    if source.rejects:
        parts.append(f" ({in_counts(source.rejects)})")
    if source.repairs:
        parts.append(f"; repaired {in_counts(source.repairs)}")
    return "".join(parts)


def shard_values(manifest: Manifest) -> dict[str, object]:
    """Totals of sharding as plain values."""
    return {
        "shards": len(manifest.shards),
        "items": sum(shard.tar.num_rows for shard in manifest.shards),
        "shard_bytes": sum(shard.tar.num_bytes for shard in manifest.shards),
    }


def shard_lines(manifest: Manifest) -> list[str]:
    """Totals of sharding in words."""
    num_items = sum(shard.tar.num_rows for shard in manifest.shards)
    num_bytes = sum(shard.tar.num_bytes for shard in manifest.shards)
    return [f"shard: {num_items} items in {len(manifest.shards)} shards, {in_mebibytes(num_bytes)}"]


def feature_values(digest: str, features: FeatureSet) -> dict[str, object]:
    """Totals of featurizing as plain values."""
    num_bytes = sum(shard.tar.num_bytes for shard in features.shards)
    return {
        "spec": digest,
        "items": features.num_items,
        "views": features.num_views,
        "feature_bytes": num_bytes,
        "fp16_bytes": features.num_fp16_bytes,
        "share_of_fp16": num_bytes / features.num_fp16_bytes if features.num_fp16_bytes else None,
        "feature_rejects": dict(Counter(reject.code for reject in features.rejects)),
    }


def feature_lines(digest: str, features: FeatureSet) -> list[str]:
    """Totals of featurizing in words; the size counts all there is, the fp16 figure only patches."""
    num_bytes = sum(shard.tar.num_bytes for shard in features.shards)
    rejects = Counter(reject.code for reject in features.rejects)
    size = in_mebibytes(num_bytes)
    if features.num_fp16_bytes:
        size += f", {100 * num_bytes / features.num_fp16_bytes:.1f} % of plain fp16"
    lines = [f"featurize: {features.num_views} views of {features.num_items} items, {size} (spec {digest})"]
    if rejects:
        lines.append(f"  rejected {sum(rejects.values())} items ({in_counts(rejects)})")
    return lines


def budget_status(manifest: Manifest) -> tuple[int, list[str]]:
    """Exit status 3 and why, when a source has more rejects than its recipe tolerates."""
    over = [source for source in manifest.sources if source.over_budget]
    lines = [
        f"{source.name}: {source.rejected} of {source.taken} records rejected, the budget is "
        f"{100 * source.reject_budget:g} %; spent on {in_counts(source.rejects)}. Mend the data, or raise "
        f"reject_budget of this source"
        for source in over
    ]
    return (OVER_BUDGET_STATUS if over else 0), lines


def in_counts(counts: Mapping[str, int]) -> str:
    """`missing_file 3, empty_answer 1`."""
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda pair: -pair[1]))


def in_mebibytes(num_bytes: int) -> str:
    """A size for people."""
    return f"{num_bytes / 2**20:,.1f} MiB"
