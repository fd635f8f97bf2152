"""Which examples a run trains on, and which shard each lies in: the table that the order is planned over.

A shard is a leaf of the plan in the manifest, so an example's shard follows from its item key by arithmetic
and no index is read. Of a key the first 64 bits count. Left out, and counted: examples of items that the
feature spec rejected, of excluded shards, of sources that the mixture does not name, and those of which no
prompt can be written, that teach nothing, or that are too long (`pipelines.stream.measures`).

Costs 17 bytes an example; every file of examples is read once and checked, one after the other.
"""

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt8, UInt32, UInt64

from infra.storage import Storage
from pipelines.commit import read_object
from pipelines.stream.columns import ExampleFile, OrderColumns, join_columns
from pipelines.stream.measures import Measured, Measures
from pipelines.stream.reader import find_features
from pipelines.stream.table import ExampleTable
from schemas.corpus import FeatureSet, Manifest
from schemas.errors import ConfigError, CorruptError, NotFoundError
from schemas.plan import Leaf
from schemas.record import Modality

MODALITIES: Final = tuple(Modality)
MAX_SOURCES: Final = 256
_KEY_BITS: Final = 64
_KEY_DIGITS: Final = _KEY_BITS // 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """The examples of a run."""

    table: ExampleTable
    rows: UInt32[np.ndarray, " examples"]
    """Row of each example in the table of examples, counted over all its files; ascending within a shard."""
    shards: tuple[Leaf, ...]
    sources: tuple[str, ...]
    num_rejected: int
    """Examples whose item has no features: rejected under the spec."""
    num_excluded: int
    """Examples of excluded shards."""
    num_unused: int
    """Examples of sources that the mixture leaves out."""
    left_out: dict[str, int]
    """Examples of which no prompt can be written, that teach nothing or are too long, by code."""

    @property
    def num_unwritable(self) -> int:
        """Examples that are left out for what they say."""
        return sum(self.left_out.values())

    def shard_of(self, row: int) -> int:
        """The shard that a row of the table lies in."""
        return int(np.searchsorted(self.table.starts, row, side="right")) - 1


@dataclass(frozen=True, slots=True)
class _Tree:
    """The leaves of one modality: where each begins, as the leading bits of a key, and its number."""

    starts: UInt64[np.ndarray, " leaves"]
    bits: UInt64[np.ndarray, " leaves"]
    numbers: Int64[np.ndarray, " leaves"]

    def find(self, keys: UInt64[np.ndarray, " keys"]) -> Int64[np.ndarray, " keys"]:
        """The leaf of each key, -1 where the tree has none."""
        if not len(self.starts):
            return np.full(len(keys), -1, dtype=np.int64)
        place = np.maximum(np.searchsorted(self.starts, keys, side="right") - 1, 0)
        differ = keys ^ self.starts[place]
        inside = (differ >> np.uint64(1)) >> (np.uint64(_KEY_BITS - 1) - self.bits[place]) == 0
        return np.where(inside, self.numbers[place], -1)


def load_catalog(
    storage: Storage,
    manifest: Manifest,
    spec: str,
    used_sources: frozenset[str],
    measures: Measures,
    exclude: Sequence[str] = (),
) -> Catalog:
    """Read the narrow columns of all examples, and measure them.

    Raises:
        ConfigError: when `exclude` names no shard, nothing is left to train on, or sources are too many.
        NotFoundError: when there are no features of this spec, or a shard of them is missing.
        CorruptError: when the table of examples is not as it was written.
    """
    features = find_features(manifest, spec)
    excluded = _find_excluded(manifest.plan, exclude)
    sources = tuple(source.name for source in manifest.sources)
    if len(sources) > MAX_SOURCES:
        raise ConfigError(f"{len(sources)} sources are more than the {MAX_SOURCES} that an order can mix")
    is_used = np.array([name in used_sources for name in sources], dtype=np.bool_)
    trees = [_grow_tree(manifest.plan, modality) for modality in MODALITIES]
    collector = _Collector(features, excluded, is_used)
    names = [modality.value for modality in MODALITIES]
    for number, entry in enumerate(manifest.examples):
        file = ExampleFile(read_object(storage, entry), entry.path)
        columns = join_columns(file.order_columns(sources, names))
        measured = measures.measure(number, entry, columns.keys, columns.num_chars)
        collector.add(columns, _place(columns, trees, entry.path), measured)
    return collector.finish(manifest.plan, sources, spec)


@dataclass(frozen=True, slots=True)
class _Kept:
    """Rows of one file that are trained on."""

    ids: UInt64[np.ndarray, " kept"]
    sources: UInt8[np.ndarray, " kept"]
    lengths: UInt32[np.ndarray, " kept"]
    shards: Int32[np.ndarray, " kept"]
    rows: UInt32[np.ndarray, " kept"]


class _Collector:
    """Takes rows file by file and sorts them into shards at the end."""

    def __init__(
        self,
        features: FeatureSet,
        excluded: frozenset[int],
        is_used: Bool[np.ndarray, " sources"],
    ) -> None:
        rejected = [int(reject.key[:_KEY_DIGITS], 16) for reject in features.rejects]
        self._rejected = np.unique(np.array(rejected, dtype=np.uint64))
        self._featurized = {shard.name for shard in features.shards}
        self._excluded = np.array(sorted(excluded), dtype=np.int64)
        self._is_used = is_used
        self._parts: list[_Kept] = []
        self._num_rows = 0
        self._num_rejected = self._num_excluded = self._num_unused = 0
        self._left_out: Counter[str] = Counter()

    def add(self, columns: OrderColumns, shards: Int64[np.ndarray, " rows"], measured: Measured) -> None:
        """Keep those rows that are trained on, and count the others."""
        unused = ~self._is_used[columns.sources]
        excluded = np.isin(shards, self._excluded) & ~unused
        is_text = columns.modalities == MODALITIES.index(Modality.TEXT)
        rejected = np.isin(columns.keys, self._rejected) & ~is_text & ~unused & ~excluded
        left = ~(unused | excluded | rejected)
        unwritable = measured.is_left_out & left
        self._num_unused += int(unused.sum())
        self._num_excluded += int(excluded.sum())
        self._num_rejected += int(rejected.sum())
        for place, count in enumerate(np.bincount(measured.codes[unwritable]).tolist()):
            self._left_out[measured.names[place]] += count
        kept = np.flatnonzero(left & ~unwritable)
        self._parts.append(
            _Kept(
                ids=columns.ids[kept],
                sources=columns.sources[kept].astype(np.uint8),
                lengths=measured.lengths[kept],
                shards=shards[kept].astype(np.int32),
                rows=(self._num_rows + kept).astype(np.uint32),
            )
        )
        self._num_rows += len(shards)

    def finish(self, plan: Sequence[Leaf], sources: tuple[str, ...], spec: str) -> Catalog:
        """The catalog, shard by shard."""
        if not any(len(part.rows) for part in self._parts):
            raise ConfigError(
                f"no example is left to train on: {self._num_unused} are of other sources, "
                f"{self._num_excluded} in excluded shards, {self._num_rejected} without features, "
                f"{sum(self._left_out.values())} of which no prompt can be written or that are too long"
            )
        shards = np.concatenate([part.shards for part in self._parts])
        order = np.argsort(shards, kind="stable")
        sizes = np.bincount(shards, minlength=len(plan))
        self._check_features(plan, sizes, spec)
        table = ExampleTable(
            ids=np.concatenate([part.ids for part in self._parts])[order],
            sources=np.concatenate([part.sources for part in self._parts])[order],
            lengths=np.concatenate([part.lengths for part in self._parts])[order],
            starts=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
            modalities=np.array([MODALITIES.index(leaf.modality) for leaf in plan], dtype=np.uint8),
        )
        return Catalog(
            table=table,
            rows=np.concatenate([part.rows for part in self._parts])[order],
            shards=tuple(plan),
            sources=sources,
            num_rejected=self._num_rejected,
            num_excluded=self._num_excluded,
            num_unused=self._num_unused,
            left_out={code: count for code, count in sorted(self._left_out.items()) if count},
        )

    def _check_features(self, plan: Sequence[Leaf], sizes: Int64[np.ndarray, " shards"], spec: str) -> None:
        missing = [
            leaf.name
            for leaf, size in zip(plan, sizes, strict=True)
            if size and leaf.modality is not Modality.TEXT and leaf.name not in self._featurized
        ]
        if missing:
            raise NotFoundError(
                f"{len(missing)} shards have no features of spec {spec}, the first is {missing[0]}; "
                "run `onetoken featurize`"
            )


def _grow_tree(plan: Sequence[Leaf], modality: Modality) -> _Tree:
    leaves = [(number, leaf.prefix) for number, leaf in enumerate(plan) if leaf.modality is modality]
    leaves.sort(key=lambda leaf: leaf[1])
    return _Tree(
        starts=np.array([int(prefix.ljust(_KEY_BITS, "0"), 2) for _, prefix in leaves], dtype=np.uint64),
        bits=np.array([len(prefix) for _, prefix in leaves], dtype=np.uint64),
        numbers=np.array([number for number, _ in leaves], dtype=np.int64),
    )


def _place(columns: OrderColumns, trees: Sequence[_Tree], path: str) -> Int64[np.ndarray, " rows"]:
    """The shard of each row."""
    shards = np.full(len(columns.keys), -1, dtype=np.int64)
    for modality, tree in enumerate(trees):
        mine = columns.modalities == modality
        shards[mine] = tree.find(columns.keys[mine])
    bad = np.flatnonzero((shards < 0) | (columns.sources < 0))
    if len(bad):
        raise CorruptError(
            f"{path}: {len(bad)} rows belong to no shard or source of the manifest, "
            f"the first has the item key {int(columns.keys[bad[0]]):016x}...; build the corpus again"
        )
    return shards


def _find_excluded(plan: Sequence[Leaf], exclude: Sequence[str]) -> frozenset[int]:
    numbers = {leaf.name: number for number, leaf in enumerate(plan)}
    for name in exclude:
        if name not in numbers:
            close = difflib.get_close_matches(name, numbers, n=1)
            hint = f", did you mean {close[0]!r}?" if close else ""
            raise ConfigError(f"exclude: the corpus has no shard {name!r}{hint}")
    return frozenset(numbers[name] for name in exclude)
