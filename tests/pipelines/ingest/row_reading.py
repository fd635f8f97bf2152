"""A file through all of it: planned, scanned, what was guessed wrong replaced, read; both passes compared."""

from dataclasses import dataclass, field

from infra.files import open_files
from pipelines.ingest.rows.chunks import read_chunks, scan_chunks
from pipelines.ingest.rows.ranges import RangeBoundaryError, RangeKind, RowRange, plan_ranges


@dataclass
class Reading:
    """What was seen of a file."""

    rows: list = field(default_factory=list)
    """(raw, value or None, whether it is sound)."""
    fields: list = field(default_factory=list)
    problems: dict = field(default_factory=dict)
    ranges: list = field(default_factory=list)
    num_replaced: int = 0
    num_chunks: int = 0


def read_file(folder, data, range_bytes=1 << 25, chunk_bytes=1 << 18, fields=(), name="a.json"):
    """Write a file and read it in ranges."""
    (folder / name).write_bytes(data)
    return read_from(open_files(folder), name, range_bytes, chunk_bytes, fields)


def read_from(files, name, range_bytes=1 << 25, chunk_bytes=1 << 18, fields=()):
    """Read a file in ranges."""
    reading = Reading(ranges=list(plan_ranges(files, name, name, range_bytes)))
    counts, raws = [], []
    while len(counts) < len(reading.ranges):
        rows = reading.ranges[len(counts)]
        try:
            with files.open(name) as file:
                chunks = list(scan_chunks(file, name, rows, sum(counts), fields, chunk_bytes))
                raws.append([[chunk.raw(index) for index in range(chunk.num_rows)] for chunk in chunks])
        except RangeBoundaryError:
            del reading.ranges[len(counts) :]
            reading.ranges.append(RowRange(RangeKind.STREAM, rows.start, rows.end))
            reading.num_replaced += 1
            continue
        reading.fields += [values for chunk in chunks for values in chunk.values]
        counts.append(sum(chunk.num_rows for chunk in chunks))
    scanned = [raw for chunks in raws for chunk in chunks for raw in chunk]
    for rows, count in zip(reading.ranges, counts, strict=True):
        before = len(reading.rows)
        with files.open(name) as file:
            for chunk in read_chunks(file, name, rows, before, chunk_bytes):
                reading.num_chunks += 1
                for index, value in enumerate(chunk.values):
                    if index in chunk.problems:
                        reading.problems[len(reading.rows)] = chunk.problems[index]
                    reading.rows.append((chunk.raw(index), value, index not in chunk.problems))
        assert len(reading.rows) - before == count, "scanning and reading count alike"
    assert [raw for raw, _, _ in reading.rows] == scanned, "scanning and reading see the same rows"
    return reading
