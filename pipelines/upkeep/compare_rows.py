"""Tables of two corpora, compared row by row, a bucket at a time.

Tables by item are cut by leading bits of the item key, each corpus by as many as its size wants. They are
compared by the finer cut, so what is held is one file of either; a coarser file is kept while its buckets are
gone through. Objects that both list are not read.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Final, Literal

import polars as pl

from infra.storage import Storage
from pipelines.commit import read_object
from pipelines.ingest.plan import key_range
from pipelines.ingest.tables import name_bucket, prefix_of
from schemas.corpus import ObjectEntry

NUM_NAMED: Final = 5

Change = Literal["added", "removed", "changed"]


@dataclass(slots=True)
class Difference:
    """How many things are in one of two alone, or in both and not the same; the first few by name."""

    counts: Counter[Change] = field(default_factory=Counter[Change])
    first: dict[Change, list[str]] = field(default_factory=dict[Change, list[str]])

    def note(self, change: Change, names: Sequence[str]) -> None:
        """Count things that this happened to."""
        if names:
            self.counts[change] += len(names)
            known = self.first.setdefault(change, [])
            known += names[: NUM_NAMED - len(known)]


@dataclass(frozen=True, slots=True)
class RowKind:
    """What is compared of a table."""

    key: str
    """The column that names a row."""
    select: Callable[[pl.DataFrame], pl.DataFrame]
    """The rows that are compared, of those of a file."""


class TableReader:
    """Reads buckets of a table; keeps the last file."""

    def __init__(
        self, storage: Storage, entries: Sequence[ObjectEntry], columns: Sequence[str] | None = None
    ) -> None:
        self.entries = entries
        self._storage = storage
        self._columns = list(columns) if columns else None
        self._last: tuple[str, pl.DataFrame] | None = None

    @property
    def num_bits(self) -> int:
        """Bits that the table is cut by."""
        return max((len(prefix_of(entry)) for entry in self.entries), default=0)

    def find(self, bits: str) -> list[ObjectEntry]:
        """Files that may have keys that begin so; `bits` are no fewer than those of any file."""
        return [entry for entry in self.entries if bits.startswith(prefix_of(entry))]

    def read(self, entries: Sequence[ObjectEntry], bits: str) -> pl.DataFrame:
        """Rows of these files whose keys begin with these bits.

        Raises:
            CorruptError: when a file is not as it was written.
        """
        first, last = key_range(bits)
        within = pl.col("item_key").is_between(pl.lit(first), pl.lit(last))
        frames = [self._load(entry).filter(within) for entry in entries]
        return pl.concat(frames) if frames else pl.DataFrame()

    def _load(self, entry: ObjectEntry) -> pl.DataFrame:
        if self._last is None or self._last[0] != entry.sha256:
            data = read_object(self._storage, entry)
            self._last = (entry.sha256, pl.read_parquet(BytesIO(data), columns=self._columns))
        return self._last[1]


def compare_tables(one: TableReader, other: TableReader, kinds: Sequence[RowKind]) -> list[Difference]:
    """The differences of two tables, for each kind of row; names come in order."""
    found = [Difference() for _ in kinds]
    for bits in _list_buckets(one, other):
        entries, others = one.find(bits), other.find(bits)
        if entries == others:
            continue
        before, after = one.read(entries, bits), other.read(others, bits)
        for kind, difference in zip(kinds, found, strict=True):
            _compare(kind, before, after, difference)
    return found


def _list_buckets(one: TableReader, other: TableReader) -> Iterator[str]:
    """Buckets of the finer cut, in order."""
    num_bits = max(one.num_bits, other.num_bits)
    for bucket in range(1 << num_bits):
        yield name_bucket(bucket, num_bits) if num_bits else ""


def _compare(kind: RowKind, before: pl.DataFrame, after: pl.DataFrame, difference: Difference) -> None:
    old = kind.select(before) if before.width else None
    new = kind.select(after) if after.width else None
    if old is None or new is None:
        difference.note("added", [] if new is None else _names(new, kind))
        difference.note("removed", [] if old is None else _names(old, kind))
        return
    difference.note("added", _names(new.join(old, on=kind.key, how="anti"), kind))
    difference.note("removed", _names(old.join(new, on=kind.key, how="anti"), kind))
    both = new.join(old, on=kind.key, how="semi")
    difference.note("changed", _names(both.join(old, on=new.columns, how="anti", nulls_equal=True), kind))


def _names(frame: pl.DataFrame, kind: RowKind) -> list[str]:
    return frame[kind.key].sort().to_list()
