"""Totals in words and as plain values: what a data command ends with."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from pipelines.ingest.findings import ProbeCounts
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
    """Totals of ingest in words: a table by source, then the sum that must balance."""
    read = sum(source.read for source in manifest.sources)
    written = sum(source.written for source in manifest.sources)
    rejected = sum(source.rejected for source in manifest.sources)
    not_taken = read - written - rejected
    balance = f"ingest: read {read} = written {written} + rejected {rejected}"
    return [
        *in_table(_SOURCE_COLUMNS, [_source_cells(source) for source in manifest.sources]),
        *(line for source in manifest.sources for line in _source_notes(source)),
        balance + (f" + not taken {not_taken}" if not_taken else ""),
        f"media: {manifest.num_media_uses} uses of {manifest.num_media} unique media, "
        f"{in_mebibytes(manifest.num_media_bytes)}",
    ]


def probe_values(counts: ProbeCounts) -> dict[str, object]:
    """What the probe did, as plain values."""
    return {"media_read": counts.num_read, "media_unchanged": counts.num_unchanged}


def probe_line(counts: ProbeCounts) -> str:
    """What the probe did, in words."""
    size = in_mebibytes(counts.num_bytes_read)
    return (
        f"probe: read {counts.num_read} media, {size}; {counts.num_unchanged} unchanged since they were read"
    )


def in_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Rows under titles, the first column to the left, the others to the right."""
    cells = [titles, *rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
        )
        for row in cells
    ]


_SOURCE_COLUMNS = ("source", "records", "examples", "rejected", "not taken", "media", "unique", "saved")


def _source_cells(source: SourceTotals) -> tuple[str, ...]:
    saved = source.num_media_bytes - source.num_unique_media_bytes
    numbers = (
        source.read,
        source.written,
        source.rejected,
        source.read - source.taken,
        source.num_media,
        source.num_unique_media,
    )
    return (source.name, *(f"{number:,}" for number in numbers), in_mebibytes(saved))


def _source_notes(source: SourceTotals) -> list[str]:
    notes: list[str] = []
    if source.rejects:
        notes.append(f"  {source.name}: rejected {in_counts(source.rejects)}")
    if source.repairs:
        notes.append(f"  {source.name}: repaired {in_counts(source.repairs)}")
    return notes


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
        "thinned_clips": features.num_thinned_clips,
        "damaged_clips": features.num_damaged_clips,
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
    if features.num_thinned_clips or features.num_damaged_clips:
        lines.append(
            f"  clips: {features.num_thinned_clips} with more frames than max_frames, spread over the clip; "
            f"{features.num_damaged_clips} with a few damaged packets, kept"
        )
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
