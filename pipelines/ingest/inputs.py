"""The annotation files of a recipe, cut into ranges that workers read: the units of ingest.

Units are numbered in the order of sources, files and rows, which is the order that everything else follows:
of identical records the first in it is the one that is kept.
"""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Int64

from infra.files import open_files
from pipelines.ingest.rows.ranges import RowRange, plan_ranges
from pipelines.ingest.selections import list_selections
from schemas.digest import sha256_hex
from schemas.recipe import Recipe

EVERYTHING: Final = "all"


@dataclass(frozen=True, slots=True)
class AnnotationInput:
    """One annotation file of a source."""

    source: str
    format: str
    selection: int
    """Of the files that one `take` is decided over, counted over all sources."""
    take: str
    folder: str
    """Path or URL of the folder that all annotation files of the source share."""
    name: str
    """Below that folder: what tables hold."""
    written: str
    """As the recipe leads to it: what messages say."""

    def open(self) -> io.RawIOBase:
        """The file, to read from any place of it.

        Raises:
            NotFoundError: when it is gone.
        """
        return open_files(self.folder).open(self.name)


@dataclass(frozen=True, slots=True)
class TakenRows:
    """Some rows of a range, counted from its first one, ascending."""

    rows: Int64[np.ndarray, " taken"]

    def within(self, first: int, count: int) -> list[int]:
        """Those among `count` rows from `first`, counted from there."""
        start, end = np.searchsorted(self.rows, [first, first + count])
        return [int(row) - first for row in self.rows[start:end]]

    @property
    def digest(self) -> str:
        """Tells two selections apart."""
        return sha256_hex(self.rows.tobytes())


@dataclass(frozen=True, slots=True)
class RangeUnit:
    """A range of rows of an annotation file."""

    index: int
    """Of the range, over all files."""
    input: AnnotationInput
    rows: RowRange
    first_row: int = 0
    """Of the range, in its file."""
    num_rows: int = 0
    taken: TakenRows | None = None
    """The rows that are used; None: all."""

    @property
    def num_taken(self) -> int:
        """How many rows are used."""
        return self.num_rows if self.taken is None else len(self.taken.rows)

    def within(self, first: int, count: int) -> Sequence[int]:
        """Rows that are used among `count` from the `first` of the range, counted from there."""
        return range(count) if self.taken is None else self.taken.within(first, count)


def list_inputs(recipe: Recipe, here: Path) -> tuple[AnnotationInput, ...]:
    """All annotation files of a recipe, in the order of sources and names.

    Raises:
        ConfigError: for a path or pattern that no file answers to.
    """
    selections = [(config, one) for config in recipe.sources for one in list_selections(config, here)]
    return tuple(
        AnnotationInput(
            source=config.name,
            format=config.format,
            selection=number,
            take=selection.take,
            folder=selection.folder,
            name=file.name,
            written=file.written,
        )
        for number, (config, selection) in enumerate(selections)
        for file in selection.files
    )


def plan_units(inputs: Sequence[AnnotationInput]) -> list[RangeUnit]:
    """The ranges of all files; how many rows each has is not known yet."""
    return renumber(
        RangeUnit(0, one, rows)
        for one in inputs
        for rows in plan_ranges(open_files(one.folder), one.name, one.written)
    )


def renumber(units: Iterable[RangeUnit]) -> list[RangeUnit]:
    """The units, numbered in the order in which they come."""
    return [replace(unit, index=index) for index, unit in enumerate(units)]
