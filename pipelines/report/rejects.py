"""What was rejected, by code, with a few of the records as they were read.

Files of the quarantine are read one after the other; of each only as many records are kept as are shown.
"""

from dataclasses import dataclass
from io import BytesIO
from typing import Final

import polars as pl

from infra.storage import Storage
from pipelines.commit import read_object
from schemas.corpus import FeatureSet, Manifest

NUM_SHOWN: Final = 3
_RAW_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class SampleReject:
    """One record that was not used."""

    place: str
    message: str
    raw: bytes
    """The beginning of the row as it was read."""
    num_raw_bytes: int
    """Of the whole row."""


@dataclass(frozen=True, slots=True)
class RejectedBy:
    """The rejects of one source and code, the first few of them to be seen."""

    source: str
    code: str
    count: int
    samples: tuple[SampleReject, ...]


def collect_rejects(storage: Storage, manifest: Manifest) -> list[RejectedBy]:
    """Rejects of ingest by source and code, sources in order, the most frequent code first.

    Raises:
        CorruptError: when a quarantine file is not as it was written.
    """
    counts: dict[tuple[str, str], int] = {}
    kept: dict[tuple[str, str], list[SampleReject]] = {}
    for entry in manifest.quarantine:
        frame = pl.read_parquet(BytesIO(read_object(storage, entry))).sort("record_file", "record_row")
        for row in frame.group_by("source", "code").len().iter_rows():
            counts[row[:2]] = counts.get(row[:2], 0) + int(row[2])
        shown = frame.group_by("source", "code", maintain_order=True).head(NUM_SHOWN)
        for row in shown.iter_rows(named=True):
            samples = kept.setdefault((row["source"], row["code"]), [])
            if len(samples) < NUM_SHOWN:
                place = f"{row['record_file']}:{row['record_row']}"
                raw: bytes = row["raw"]
                samples.append(SampleReject(place, row["message"], raw[:_RAW_BYTES], len(raw)))
    order = {source.name: place for place, source in enumerate(manifest.sources)}
    ordered = sorted(counts, key=lambda name: (order.get(name[0], len(order)), -counts[name], name[1]))
    return [RejectedBy(*name, counts[name], tuple(kept[name])) for name in ordered]


def collect_feature_rejects(spec: str, features: FeatureSet) -> list[RejectedBy]:
    """Items that could not be encoded under a spec, by code, the most frequent first."""
    by_code: dict[str, list[SampleReject]] = {}
    for reject in features.rejects:
        sample = SampleReject(f"item {reject.key}", reject.message, b"", 0)
        by_code.setdefault(reject.code, []).append(sample)
    ordered = sorted(by_code, key=lambda code: (-len(by_code[code]), code))
    return [
        RejectedBy(f"features {spec}", code, len(by_code[code]), tuple(by_code[code][:NUM_SHOWN]))
        for code in ordered
    ]
