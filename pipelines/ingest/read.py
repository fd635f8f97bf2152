"""Reading: the rows of a range become examples of items, or rejects, each row one of the two.

What the probe found is joined here, so a record whose medium is missing or broken is rejected with the
medium's code. A sound row costs some ten microseconds, half of them for parsing; that is why examples are
plain tuples here, and items are put together once a range and not once a record.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from infra.storage import Storage
from operators.annotations import LAYOUTS
from operators.annotations.usual import read_usual_rows
from pipelines.ingest.collection import no_collection
from pipelines.ingest.inputs import RangeUnit
from pipelines.ingest.items import Answers, ItemTable, combine_repairs
from pipelines.ingest.parts import Examples, Part
from pipelines.ingest.rows.chunks import Chunk, UsualChunk, read_usual_chunks
from pipelines.ingest.rows.json_values import RowProblem
from pipelines.ingest.tables import put_rejects
from pipelines.scatter import Scattered, scatter
from schemas.corpus import ObjectEntry
from schemas.errors import MismatchError, RejectCode, SampleError
from schemas.record import (
    Locator,
    Reject,
    count_chars,
    encode_conversation,
    end_example_id,
)

PART_BYTES: Final = 32 << 20
"""What is held of a range before it is written: ranges that are read in sequence make several parts."""


@dataclass(frozen=True, slots=True)
class ReadUnit:
    """A range to be read."""

    range: RangeUnit
    answers: Answers
    keeps_raw: bool
    """Keep the row of every example, in case it turns out to be a duplicate that has to be rejected."""


@dataclass(frozen=True, slots=True)
class ReadPart:
    """What was written of a range, for the stage that groups."""

    examples: Scattered
    media: Scattered


@dataclass(slots=True)
class ReadResult:
    """What became of the rows of a range."""

    parts: list[ReadPart] = field(default_factory=list[ReadPart])
    num_examples: int = 0
    quarantine: list[ObjectEntry] = field(default_factory=list[ObjectEntry])
    rejects: dict[str, int] = field(default_factory=dict[str, int])
    """By code."""


@dataclass(frozen=True, slots=True)
class ReadWorker:
    """Builds the reading function inside a worker."""

    storage: Storage
    scratch: str
    item_bits: int

    def build(self) -> Callable[[ReadUnit], ReadResult]:
        """See `Worker.build`."""

        def read_unit(unit: ReadUnit) -> ReadResult:
            with no_collection():
                return _RangeReader(self, unit).read()

        return read_unit


class _RangeReader:
    """Reads one range."""

    def __init__(self, worker: ReadWorker, unit: ReadUnit) -> None:
        self._worker = worker
        self._unit = unit
        self._range = unit.range
        self._layout = LAYOUTS[unit.range.input.format]
        self._items = ItemTable(unit.range.input.source, unit.answers.load(worker.storage))
        self._part = Part(worker.item_bits)
        self._rejects: list[Reject] = []
        self._num_rejected_bytes = 0
        self._result = ReadResult()

    def read(self) -> ReadResult:
        """Read all rows and write what they bring."""
        one = self._range
        num_rows = num_used = 0
        with one.input.open() as file:
            chunks = read_usual_chunks(file, one.input.written, one.rows, one.first_row, self._layout.usual)
            for chunk in chunks:
                num_used += self._read_chunk(chunk, num_rows, num_used)
                num_rows += chunk.num_rows
                self._write(PART_BYTES)
        if num_rows != one.num_rows:
            raise MismatchError(
                f"annotations {one.input.written}: {one.num_rows} rows were counted from {one.first_row} on, "
                f"now there are {num_rows}: the file has changed; run the command again"
            )
        self._write(0)
        return self._result

    def _read_chunk(self, chunk: Chunk | UsualChunk, first: int, num_used: int) -> int:
        """Read the rows of a chunk that are used; how many they are."""
        used = self._range.within(first, chunk.num_rows)
        found = Examples()
        rest = enumerate(used, num_used)
        if isinstance(chunk, UsualChunk) and len(used) == chunk.num_rows:
            known = self._read_usual(chunk, first, found)
            rest = [pair for pair in rest if pair[1] not in known] if len(known) < len(used) else ()
        for place, index in rest:
            self._read_row(chunk, index, first, place, found)
        if self._unit.keeps_raw:
            start = self._range.first_row + first
            found.raws = [chunk.raw(row - start) for row in found.rows]
        self._part.add(found)
        return len(used)

    def _read_usual(self, chunk: UsualChunk, first: int, found: Examples) -> set[int]:
        """Add the examples of rows that need no second look; which ones they are."""
        if self._layout.usual is None:
            return set()
        records = read_usual_rows(chunk.columns, self._layout.usual)
        find_path, find_text = self._items.by_path(records.kind).get, self._items.find_text
        paths = zip(records.paths, records.conversations, strict=True)
        items = [find_path(path) if path else find_text(text) for path, text in paths]
        if None in items:
            records = records.take([place for place, item in enumerate(items) if item is not None])
        found.items = [item for item in items if item is not None]
        found.example_ids = self._name_examples(found.items, records.conversations)
        start = self._range.first_row + first
        found.rows = [start + row for row in records.rows]
        found.record_ids = records.record_ids
        found.num_chars = records.num_chars
        found.repairs = [0] * len(found.items)
        found.conversations = records.conversations
        return set(records.rows)

    def _name_examples(self, items: Sequence[int], conversations: Sequence[bytes]) -> list[bytes]:
        beginnings = self._items.beginnings
        identified = zip(items, conversations, strict=True)
        return [end_example_id(beginnings[item], text) for item, text in identified]

    def _read_row(
        self, chunk: Chunk | UsualChunk, index: int, first: int, place: int, found: Examples
    ) -> None:
        """Add the example of a row, or reject it."""
        row = self._range.first_row + first + index
        value = chunk.read(index)
        if isinstance(value, RowProblem):
            self._reject(row, value.code, value.message, chunk.raw(index))
            return
        try:
            record_id, texts, media, repairs = self._layout.parse(value)
            conversation = encode_conversation(texts)
            if self._layout.is_embedded:
                item = self._items.find_embedded(place, len(media), conversation)
            else:
                item = self._items.find(media) if media else self._items.find_text(conversation)
        except SampleError as error:
            self._reject(row, error.code, error.message, chunk.raw(index))
            return
        found.items.append(item)
        found.example_ids.append(end_example_id(self._items.beginnings[item], conversation))
        found.rows.append(row)
        found.record_ids.append(record_id)
        found.num_chars.append(count_chars(texts))
        found.repairs.append(combine_repairs(repairs))
        found.conversations.append(conversation)

    def _reject(self, row: int, code: RejectCode, message: str, raw: bytes) -> None:
        locator = Locator(self._range.input.name, row)
        self._rejects.append(Reject(self._range.input.source, locator, code.value, message, raw))
        self._num_rejected_bytes += len(raw)
        self._result.rejects[code.value] = self._result.rejects.get(code.value, 0) + 1

    def _write(self, limit_bytes: int) -> None:
        """Write what is held of examples and of rejects, each if it is more than so much."""
        if self._part.num_text_bytes > limit_bytes:
            self._write_part()
        if self._num_rejected_bytes > limit_bytes:
            self._write_rejects()

    def _write_part(self) -> None:
        part, self._part = self._part, Part(self._worker.item_bits)
        storage = self._worker.storage
        name = f"{self._range.index:06d}-{len(self._result.parts):04d}"
        examples = scatter(
            storage, f"{self._worker.scratch}/examples-{name}", part.pack_examples(self._items)
        )
        media = scatter(storage, f"{self._worker.scratch}/media-{name}", part.pack_media(self._items))
        self._result.parts.append(ReadPart(examples, media))
        self._result.num_examples += part.num_examples
        self._items.forget_added()

    def _write_rejects(self) -> None:
        rejects, self._rejects, self._num_rejected_bytes = self._rejects, [], 0
        name = f"{self._range.input.source}-{self._range.index:06d}-{len(self._result.quarantine):04d}"
        self._result.quarantine.append(put_rejects(self._worker.storage, name, rejects))
