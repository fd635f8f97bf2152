"""Records in every layout and container that ingest reads, a source each, with the recipe that reads them.

Where `records` plans what a bare JSON parser can be measured on, here are all the others beside it: JSON
lines, gzip, parquet with pictures in the rows, LLaMA-Factory's messages, several pictures a record, and
LLaVA-Mini's yaml lists, which take part of a file. Every source has planted faults, and says how many rows of
which code it has to lose. Paths in recipe and lists are relative, so the same number of records gives the
same files in any folder. Media outside of rows are named and not written.

Left out is `random:N` of a yaml list: which rows it takes is known to who has hashed them all.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import yaml

from jobs.bench.layout_rows import (
    CLIP_FAULTS,
    EMBEDDED_FAULTS,
    INTERLEAVED_FAULTS,
    LINE_FAULTS,
    MESSAGE_FAULTS,
    write_clip_talk,
    write_embedded,
    write_interleaved,
    write_long_caption,
    write_messages,
    write_panels,
)
from jobs.bench.records import BROKEN_EVERY, RecordSet, plan_sets
from jobs.bench.rows import Fault, RowWriter, write_extra
from jobs.bench.spelling import COMPACT, Spelling
from schemas.errors import RejectCode
from schemas.recipe import Format, Recipe, SourceConfig

RECIPE: Final = "recipe.yaml"
MEDIA: Final = "media"
_LINES: Final = Spelling(container="lines")
_PACKED_LINES: Final = Spelling(container="lines", is_packed=True)
_PARQUET: Final = Spelling(container="parquet")
_PANELS: Final = Spelling(container="parquet", lists_pictures=True)
_WHOLE: Final = 3_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenSet:
    """A file, and which of its rows are taken."""

    records: RecordSet
    start: int
    stop: int
    strategy: str = "all"
    """As a yaml list says it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutSource:
    """A source of the recipe."""

    name: str
    format: Format
    files: tuple[TakenSet, ...]

    @property
    def num_records(self) -> int:
        """Rows of all files."""
        return sum(file.records.num_rows for file in self.files)

    @property
    def num_taken(self) -> int:
        """Rows of all files that are used."""
        return sum(file.stop - file.start for file in self.files)

    def count_faults(self) -> dict[str, int]:
        """Taken rows that have to be rejected, by code."""
        counts = (file.records.count_faults(file.start, file.stop) for file in self.files)
        faults = sum(counts, start=Counter[RejectCode]())
        return {code.value: count for code, count in sorted(faults.items())}

    def configure(self) -> SourceConfig:
        """The source as the recipe names it, seen from the folder of the files."""
        is_list = self.format == "llava_yaml"
        annotations = f"{self.name}.yaml" if is_list else [one.records.file_name for one in self.files]
        is_embedded = self.format in ("onevision", "llava_next")
        root = None if is_embedded else MEDIA
        return SourceConfig(name=self.name, format=self.format, annotations=annotations, media_root=root)


def plan_sources(num_records: int, broken_every: int = BROKEN_EVERY) -> list[LayoutSource]:
    """Sources that hold so many records together, in the proportions of three million."""
    parts = _Parts(num_records, broken_every)
    arrays = [
        _take(one.name, one.format, replace(one, broken_every=broken_every))
        for one in plan_sets(parts.count(1_000_000))
    ]
    sources = [
        *arrays,
        parts.plan("sharegpt4v", "llava", 150_000, write_long_caption, LINE_FAULTS, _LINES),
        parts.plan("clips", "llava", 100_000, write_clip_talk, CLIP_FAULTS, _PACKED_LINES),
        parts.plan(
            "interleaved", "llava", 150_000, write_interleaved, INTERLEAVED_FAULTS, Spelling(indent=4)
        ),
        parts.plan("messages", "sharegpt", 250_000, write_messages, MESSAGE_FAULTS, _LINES),
        parts.plan("llava-next", "llava_next", 250_000, write_embedded, EMBEDDED_FAULTS, _PARQUET),
        parts.plan("panels", "onevision", 100_000, write_panels, EMBEDDED_FAULTS, _PANELS),
        parts.plan_listed(),
    ]
    rest = num_records - sum(source.num_records for source in sources)
    return [*sources, parts.plan_split("onevision", rest)]


def make_recipe(sources: Sequence[LayoutSource]) -> Recipe:
    """The recipe over sources; it is read from the folder of the files."""
    return Recipe(name="every-layout", sources=[one.configure() for one in sources])


def write_lists(folder: Path, sources: Sequence[LayoutSource]) -> None:
    """Write the recipe, and the lists that its sources are."""
    for source in sources:
        if source.format == "llava_yaml":
            entries = [
                {"json_path": one.records.file_name, "sampling_strategy": one.strategy}
                for one in source.files
            ]
            _write_yaml(folder / f"{source.name}.yaml", {"datasets": entries})
    recipe = make_recipe(sources).model_dump(mode="json", exclude_defaults=True)
    _write_yaml(folder / RECIPE, recipe)


def _write_yaml(path: Path, values: dict[str, object]) -> None:
    path.write_text(yaml.safe_dump(values, sort_keys=False), "utf-8")


def _take(name: str, layout: Format, *sets: RecordSet) -> LayoutSource:
    files = tuple(TakenSet(records=one, start=0, stop=one.num_rows) for one in sets)
    return LayoutSource(name=name, format=layout, files=files)


@dataclass(frozen=True, slots=True)
class _Parts:
    """Shares of a number of records."""

    num_records: int
    broken_every: int

    def count(self, of_whole: int) -> int:
        """So many of three million; at least one."""
        return max(1, round(of_whole * self.num_records / _WHOLE))

    def plan(
        self,
        name: str,
        layout: Format,
        of_whole: int,
        write: RowWriter,
        faults: tuple[Fault, ...],
        spelling: Spelling,
    ) -> LayoutSource:
        """A source of one file; each medium serves two records on average."""
        num_rows = self.count(of_whole)
        return _take(name, layout, self._set(name, layout, num_rows, write, faults, spelling))

    def plan_split(self, name: str, num_rows: int, num_files: int = 3) -> LayoutSource:
        """OneVision's parquet files, some of one subset."""
        bounds = [num_rows * index // num_files for index in range(num_files + 1)]
        sets = [
            self._set(
                f"{name}/train-{index:05d}-of-{num_files:05d}",
                "onevision",
                bounds[index + 1] - bounds[index],
                write_embedded,
                EMBEDDED_FAULTS,
                _PARQUET,
            )
            for index in range(num_files)
        ]
        return _take(name, "onevision", *sets)

    def plan_listed(self) -> LayoutSource:
        """A yaml list of three files: one whole, half of one, the end of one."""
        whole, half, end = (
            self._set(f"listed/{name}", "llava_yaml", self.count(of_whole), write_extra, faults, spelling)
            for name, of_whole, faults, spelling in (
                ("whole", 150_000, LINE_FAULTS, COMPACT),
                ("half", 100_000, LINE_FAULTS, _LINES),
                ("end", 100_000, LINE_FAULTS, _PACKED_LINES),
            )
        )
        num_last = max(1, end.num_rows // 5)
        files = (
            TakenSet(records=whole, start=0, stop=whole.num_rows),
            TakenSet(records=half, start=0, stop=-(-half.num_rows // 2), strategy="first:50%"),
            TakenSet(
                records=end,
                start=end.num_rows - num_last,
                stop=end.num_rows,
                strategy=f"end:{num_last}",
            ),
        )
        return LayoutSource(name="listed", format="llava_yaml", files=files)

    def _set(
        self,
        name: str,
        layout: Format,
        num_rows: int,
        write: RowWriter,
        faults: tuple[Fault, ...],
        spelling: Spelling,
    ) -> RecordSet:
        return RecordSet(
            name=name,
            format=layout,
            num_rows=num_rows,
            num_media=max(1, num_rows // 2),
            write_row=write,
            faults=faults,
            broken_every=self.broken_every,
            spelling=spelling,
        )
