"""Retry: the records in quarantine once more, and only those, after files were mended.

Their rows are read again where they stand, by file and number, so both a mended picture and a mended
annotation count; what is good now joins the tables, what is not goes back to quarantine with what is wrong
with it now. Records that were rejected as duplicates stay where they are: nothing about them can be mended.

The files that hold rejected rows must have as many rows as before, and every row that was good must be the
record that it was (`moved_rows.py`): with rows added, removed or moved, numbers would mean other records, and
`onetoken ingest` is the way. No other annotation file is opened, and no file of a medium that only good
records name; where pictures stand in the rows, those beside a rejected row are read with it. The tables are
sorted anew, so the corpus is the one that a whole ingest would give; only of identical records in a source
with `deduplicate` the one that was good first is kept.

What it saves is asking after media, however many there are and however far away. Of files that hold rejected
rows all text is read three times, to count, to compare and to try again, and all tables twice; where every
file holds one, an ingest that knew all media without asking would be faster.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO

import numpy as np
import polars as pl
from jaxtyping import Int64

from infra.storage import Storage
from pipelines.commit import load_manifest, publish_manifest, read_object
from pipelines.engine import Engine, Progress, no_progress
from pipelines.ingest.counts import SourceCounts
from pipelines.ingest.findings import ProbeCounts
from pipelines.ingest.flow import keep_later_stages
from pipelines.ingest.inputs import AnnotationInput, RangeUnit, TakenRows, plan_units
from pipelines.ingest.moved_rows import check_places
from pipelines.ingest.probe import ProbeWorker
from pipelines.ingest.read import ReadResult, ReadUnit
from pipelines.ingest.row_marks import Kept, KeptTable
from pipelines.ingest.scan import ScanWorker
from pipelines.ingest.scanning import count_ranges, scan_media
from pipelines.ingest.stages import (
    IngestRun,
    group_items,
    make_scan_worker,
    open_run,
    probe_media,
    read_ranges,
)
from pipelines.ingest.tables import choose_item_bits
from pipelines.ingest.totals import count_by_source, describe_corpus, total_source
from schemas.corpus import Manifest, ObjectEntry, SourceTotals
from schemas.errors import MismatchError, RejectCode
from schemas.recipe import Recipe

Quarantined = Mapping[tuple[str, str], Int64[np.ndarray, " rows"]]
"""Rows by source and file, ascending."""


@dataclass(frozen=True, slots=True)
class Retried:
    """What a retry came to."""

    manifest: Manifest
    num_tried: int
    num_mended: int
    probed: ProbeCounts


def retry(recipe: Recipe, storage: Storage, engine: Engine, progress: Progress = no_progress) -> Retried:
    """Try the records in quarantine again and publish what the corpus is then.

    Raises:
        NotFoundError: when nothing was ingested yet.
        MismatchError: when the corpus is of another recipe, or annotation files have other rows than before,
            or in another order.
    """
    old = load_manifest(storage)
    if old.ingest_digest != recipe.ingest_digest:
        raise MismatchError(
            f"{storage.url} was ingested as {old.name!r} with other sources, views or shard limits than the "
            f"recipe {recipe.name!r} has now; run `onetoken ingest` with it"
        )
    quarantined = find_quarantined(storage, old)
    with open_run(recipe, storage, engine, progress) as run:
        inputs = [one for one in run.inputs if (one.source, one.name) in quarantined]
        worker = make_scan_worker(run)
        ranges = select_rows(run, worker, inputs, quarantined, old)
        units, probed = probe_media(run, scan_media(engine, worker, ranges, progress), False, ProbeWorker)
        item_bits = choose_item_bits(sum(source.taken for source in old.sources))
        read = read_ranges(run, units, item_bits)
        groups = group_items(run, units, read, item_bits, old)
    counts = count_by_source(groups)
    sources = [
        total_source(
            _still_rejected(source, units, read), counts.get(source.name, SourceCounts()), source.repairs
        )
        for source in old.sources
    ]
    kept = [entry for entry in old.quarantine if _holds_duplicates(entry)]
    rejected = [*kept, *(entry for result in read for entry in result.quarantine)]
    manifest = keep_later_stages(old, describe_corpus(recipe, sources, rejected, groups))
    publish_manifest(storage, manifest, derived_from=old)
    num_tried = sum(len(rows) for rows in quarantined.values())
    num_mended = sum(s.written for s in manifest.sources) - sum(s.written for s in old.sources)
    return Retried(manifest, num_tried, num_mended, probed)


def find_quarantined(storage: Storage, manifest: Manifest) -> Quarantined:
    """Rows that are rejected and may have been mended.

    Raises:
        CorruptError: when a quarantine file is not as it was written.
    """
    columns = ["source", "record_file", "record_row", "code"]
    frames = [
        pl.read_parquet(BytesIO(read_object(storage, entry)), columns=columns)
        for entry in manifest.quarantine
        if not _holds_duplicates(entry)
    ]
    if not frames:
        return {}
    rows = pl.concat(frames).group_by("source", "record_file").agg(pl.col("record_row").sort())
    return {(source, file): np.array(numbers, dtype=np.int64) for source, file, numbers in rows.iter_rows()}


def select_rows(
    run: IngestRun,
    worker: ScanWorker,
    inputs: Sequence[AnnotationInput],
    quarantined: Quarantined,
    old: Manifest,
) -> list[RangeUnit]:
    """The ranges that hold rows to be tried again, with these rows.

    Raises:
        MismatchError: when a file is gone, or has other rows than before, or in another order.
    """
    files = {source.name: source.files for source in old.sources}
    counted = count_ranges(run.engine, worker, plan_units(inputs), run.progress)
    num_rows = Counter[tuple[str, str]]()
    for unit in counted:
        num_rows[unit.input.source, unit.input.name] += unit.num_rows
    for source, name in quarantined:
        before = files[source][name]
        if num_rows[source, name] != before:
            raise MismatchError(
                f"source {source}: {name} had {before} rows when it was ingested, now it has "
                f"{num_rows[source, name]}; row numbers mean other records: run `onetoken ingest`"
            )
    check_places(run, counted, [*_list_tables(old)])
    selected = [_select(unit, quarantined[unit.input.source, unit.input.name]) for unit in counted]
    return [unit for unit in selected if unit.num_taken]


def _list_tables(old: Manifest) -> Iterator[KeptTable]:
    yield from (KeptTable(entry, Kept.EXAMPLES) for entry in old.examples)
    for entry in old.quarantine:
        yield KeptTable(entry, Kept.DUPLICATES if _holds_duplicates(entry) else Kept.REJECTS)


def _select(unit: RangeUnit, rows: Int64[np.ndarray, " rows"]) -> RangeUnit:
    start, end = np.searchsorted(rows, [unit.first_row, unit.first_row + unit.num_rows])
    return replace(unit, taken=TakenRows(rows[start:end] - unit.first_row))


def _still_rejected(
    source: SourceTotals, units: Sequence[ReadUnit], read: Sequence[ReadResult]
) -> SourceTotals:
    """The totals of a source with the rejects that stand now; what grouping counts is added later."""
    duplicates = source.rejects.get(RejectCode.DUPLICATE_RECORD.value, 0)
    rejects = Counter({RejectCode.DUPLICATE_RECORD.value: duplicates} if duplicates else {})
    for unit, result in zip(units, read, strict=True):
        if unit.range.input.source == source.name:
            rejects.update(result.rejects)
    return source.model_copy(update={"rejects": dict(rejects)})


def _holds_duplicates(entry: ObjectEntry) -> bool:
    """Whether grouping wrote a file: SOURCE-duplicates-BITS-DIGEST, where reading writes numbers."""
    return entry.path.rsplit("-", 3)[1] == "duplicates"
