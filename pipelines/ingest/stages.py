"""The four stages of ingest, each a list of units that the engine runs.

Ingest and retry are made of them. What passes through here is small: where scratch objects lie, and counts.
"""

import contextlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.files import open_files
from infra.storage import Storage
from operators.annotations import LAYOUTS
from pipelines.engine import Engine, Progress, run_in_order
from pipelines.ingest.embedded import EmbeddedProbeWorker
from pipelines.ingest.findings import ProbeCounts
from pipelines.ingest.group import GroupResult, GroupWorker, RankedFile
from pipelines.ingest.inputs import AnnotationInput, RangeUnit, list_inputs
from pipelines.ingest.items import Answers
from pipelines.ingest.media.reader import MediaSource, locate_media
from pipelines.ingest.probe import AskingRange, ProbeResult, ProbeWorker
from pipelines.ingest.probe_cache import ProbeCache, drop_superseded, open_cache
from pipelines.ingest.read import ReadResult, ReadUnit, ReadWorker
from pipelines.ingest.scan import ScanWorker, choose_request_bits
from pipelines.ingest.scanning import ScannedRange
from pipelines.scatter import scratch_folder
from schemas.corpus import Manifest
from schemas.recipe import Recipe


@dataclass(frozen=True, slots=True)
class IngestRun:
    """What all stages of one run share."""

    recipe: Recipe
    storage: Storage
    engine: Engine
    progress: Progress
    media: tuple[MediaSource, ...]
    scratch: str
    """Folder for scratch objects."""
    inputs: tuple[AnnotationInput, ...]

    @property
    def unwanted(self) -> dict[str, frozenset[str]]:
        """By source, the digests of media that nobody wants."""
        return {source.name: frozenset(source.reject_media) for source in self.recipe.sources}

    @property
    def deduplicated(self) -> frozenset[str]:
        """Sources that keep the first of identical records only."""
        return frozenset(config.name for config in self.recipe.sources if config.deduplicate)


@contextlib.contextmanager
def open_run(recipe: Recipe, storage: Storage, engine: Engine, progress: Progress) -> Generator[IngestRun]:
    """A run, with a folder for scratch objects that is empty again when the block is left.

    Paths of the recipe start from the current folder.

    Raises:
        ConfigError: for annotations and media roots that are not there.
    """
    here = Path.cwd()
    inputs, media = list_inputs(recipe, here), locate_media(recipe.sources, here)
    with scratch_folder(storage) as scratch:
        yield IngestRun(recipe, storage, engine, progress, media, scratch, inputs)


def make_scan_worker(run: IngestRun) -> ScanWorker:
    """The worker that scans the annotation files of a run."""
    num_bytes = sum(open_files(one.folder).state(one.name).num_bytes for one in run.inputs)
    return ScanWorker(run.storage, run.scratch, choose_request_bits(num_bytes))


def probe_media(
    run: IngestRun, scanned: Sequence[ScannedRange], reread: bool, probe: type[ProbeWorker]
) -> tuple[list[ReadUnit], ProbeCounts]:
    """Look at all media that the ranges name; the ranges, each with the answers to what it asked for."""
    cache = open_cache(run.storage, reread)
    embedded = [one.unit for one in scanned if LAYOUTS[one.unit.input.format].is_embedded]
    asking = [one for one in scanned if one.result.references and one.result.references.bounds[-1]]
    in_rows = _probe_rows(run, embedded, cache)
    in_files = _probe_files(run, asking, cache, probe)
    drop_superseded(run.storage, cache, {one.cache_slot: one.cached for one in [*in_rows, *in_files]})
    places = {one.unit.index: place for place, one in enumerate(asking)}
    rows = {unit.index: result.findings for unit, result in zip(embedded, in_rows, strict=True)}
    findings = tuple(one.findings for one in in_files)
    unwanted = run.unwanted
    units = [
        ReadUnit(
            one.unit,
            Answers(
                references=one.result.references if one.unit.index in places else None,
                findings=findings if one.unit.index in places else (),
                place=places.get(one.unit.index, 0),
                row_findings=rows.get(one.unit.index),
                unwanted=unwanted[one.unit.input.source],
            ),
            keeps_raw=one.unit.input.source in run.deduplicated,
        )
        for one in scanned
    ]
    return units, sum((one.counts for one in [*in_rows, *in_files]), start=ProbeCounts())


def read_ranges(run: IngestRun, units: Sequence[ReadUnit], item_bits: int) -> list[ReadResult]:
    """Read all ranges."""
    worker = ReadWorker(run.storage, run.scratch, item_bits)
    return run_in_order(run.engine, worker, units, "read", run.progress)


def group_items(
    run: IngestRun,
    units: Sequence[ReadUnit],
    read: Sequence[ReadResult],
    item_bits: int,
    old: Manifest | None = None,
) -> list[GroupResult]:
    """Write the tables, bucket by bucket; the rows are added to those of the manifest `old`."""
    ranks = {(one.source, one.name): rank for rank, one in enumerate(run.inputs)}
    results = zip(units, read, strict=True)
    parts = [(part, unit.range.input) for unit, result in results for part in result.parts]
    worker = GroupWorker(
        storage=run.storage,
        parts=tuple(part for part, _ in parts),
        files=tuple(RankedFile(one.source, one.name) for one in run.inputs),
        part_files=tuple(ranks[one.source, one.name] for _, one in parts),
        deduplicated=run.deduplicated,
        views=run.recipe.views,
        limits=run.recipe.shards,
        item_bits=item_bits,
        old_examples=tuple(old.examples) if old else (),
        old_media=tuple(old.media) if old else (),
    )
    return run_in_order(run.engine, worker, range(1 << item_bits), "group", run.progress)


def _probe_rows(run: IngestRun, units: Sequence[RangeUnit], cache: ProbeCache) -> list[ProbeResult]:
    worker = EmbeddedProbeWorker(run.storage, run.scratch, cache)
    return run_in_order(run.engine, worker, units, "probe rows", run.progress)


def _probe_files(
    run: IngestRun, asking: Sequence[ScannedRange], cache: ProbeCache, probe: type[ProbeWorker]
) -> list[ProbeResult]:
    references = [(one.unit.input.source, one.result.references) for one in asking]
    ranges = tuple(AskingRange(source, named) for source, named in references if named)
    if not ranges:
        return []
    num_buckets = len(ranges[0].references.bounds) - 1
    worker = probe(
        storage=run.storage,
        scratch=run.scratch,
        sources=run.media,
        asking=ranges,
        request_bits=num_buckets.bit_length() - 1,
        cache=cache,
    )
    return run_in_order(run.engine, worker, range(num_buckets), "probe", run.progress)
