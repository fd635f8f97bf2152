"""What examples say, shard by shard: text stays on disk until the order reaches its shard.

The texts of a shard lie close together in the table of examples, which is sorted by item. Loading a shard
reads and checks the file or files it lies in and decodes the row groups that hold it, so a row group is
decoded once for each shard in it. Kept are the texts of two blocks of shards: some 0.7 MB a shard of 750
examples, however large the corpus is.
"""

from collections import OrderedDict
from threading import Lock

import numpy as np
from jaxtyping import Int64

from infra.storage import Storage
from pipelines.commit import read_object
from pipelines.stream.catalog import Catalog
from pipelines.stream.columns import ExampleFile, ExampleText
from schemas.corpus import ObjectEntry


class Conversations:
    """Texts by row of the catalog; safe to share between threads."""

    def __init__(
        self, storage: Storage, examples: list[ObjectEntry], catalog: Catalog, max_shards: int
    ) -> None:
        self._storage = storage
        self._entries = examples
        self._catalog = catalog
        self._max_shards = max_shards
        sizes = [entry.num_rows for entry in examples]
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._shards: OrderedDict[int, list[ExampleText]] = OrderedDict()
        self._lock = Lock()

    def read(self, row: int) -> ExampleText:
        """The text of a row.

        Raises:
            CorruptError: when the table of examples is not as it was written.
        """
        shard = self._catalog.shard_of(row)
        with self._lock:
            if shard not in self._shards:
                self._shards[shard] = self._load(shard)
                if len(self._shards) > self._max_shards:
                    self._shards.popitem(last=False)
            self._shards.move_to_end(shard)
            return self._shards[shard][row - int(self._catalog.table.starts[shard])]

    def _load(self, shard: int) -> list[ExampleText]:
        starts = self._catalog.table.starts
        rows = self._catalog.rows[int(starts[shard]) : int(starts[shard + 1])].astype(np.int64)
        files = np.searchsorted(self._starts, rows, side="right") - 1
        texts: list[ExampleText] = []
        for file in np.unique(files):
            texts += self._read_file(int(file), rows[files == file] - self._starts[file])
        return texts

    def _read_file(self, file: int, rows: Int64[np.ndarray, " rows"]) -> list[ExampleText]:
        entry = self._entries[file]
        return ExampleFile(read_object(self._storage, entry), entry.path).read_texts(rows)
