"""Tables, looked at file by file: digests, order, and what they count up to.

A file is parsed only if its digest is right. Columns are narrow and handled by polars; memory is one file.
"""

from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Final

import polars as pl

from infra.storage import Storage
from pipelines.ingest.plan import key_range
from pipelines.ingest.tables import prefix_of
from pipelines.upkeep.findings import FAULT, Checked
from schemas.corpus import Manifest, ObjectEntry

KEY_SUM: Final = ("sum of keys",)


def check_examples(storage: Storage, entry: ObjectEntry) -> Checked:
    """Check a file of examples; counts examples by source and items by modality."""
    checked = Checked()
    frame = _load(storage, entry, ["source", "item_key", "example_id", "modality"], checked)
    if frame is None:
        return checked
    _check_keys(frame, entry, [pl.col("example_id")], checked)
    for source, number in frame.group_by("source").len().iter_rows():
        checked.tally["examples of", source] += number
    items = frame.unique(["item_key", "modality"])
    checked.expect(entry.path, "items of one modality each", items["item_key"].n_unique(), len(items))
    for modality, number in items.group_by("modality").len().iter_rows():
        checked.tally["items", modality] += number
    return checked


def check_media(storage: Storage, entry: ObjectEntry) -> Checked:
    """Check a file of media; counts rows, bytes and uses, and adds up the keys of the items."""
    checked = Checked()
    frame = _load(storage, entry, ["item_key", "position", "num_bytes", "times_used"], checked)
    if frame is None:
        return checked
    _check_keys(frame, entry, [pl.col("position").cast(pl.String).str.zfill(10)], checked)
    checked.tally["media",] += len(frame)
    checked.tally["bytes of media",] += int(frame["num_bytes"].sum())
    checked.tally["uses of media",] += int(frame["times_used"].sum())
    checked.tally[KEY_SUM] += sum(int(key, 16) for key in frame["item_key"].unique())
    return checked


def check_quarantine(storage: Storage, entry: ObjectEntry) -> Checked:
    """Check a file of rejects; counts them by source and code."""
    checked = Checked()
    frame = _load(storage, entry, ["source", "code"], checked)
    if frame is not None:
        for source, code, number in frame.group_by("source", "code").len().iter_rows():
            checked.tally["rejects of", source, code] += number
    return checked


TABLE_CHECKS: Final[Mapping[str, Callable[[Storage, ObjectEntry], Checked]]] = {
    "examples": check_examples,
    "media": check_media,
    "quarantine": check_quarantine,
}


def check_totals(manifest: Manifest, found: Checked, where: str) -> None:
    """Compare what all tables count up to with what the manifest says, and that with itself."""
    expected = Checked()
    for source in manifest.sources:
        expected.tally["examples of", source.name] = source.written
        for code, number in source.rejects.items():
            expected.tally["rejects of", source.name, code] = number
        read = f"of {source.name} read, by files"
        found.expect(where, f"records {read}", source.read, sum(source.files.values()))
        taken = source.written + source.rejected
        found.expect(where, f"records of {source.name} written or rejected", source.taken, taken)
        rejects = sum(source.rejects.values())
        found.expect(where, f"rejects of {source.name} by code", source.rejected, rejects)
        if source.taken > source.read:
            found.blame(where, f"{source.taken} records of {source.name} taken, {source.read} read", FAULT)
    for leaf in manifest.plan:
        expected.tally["items", leaf.modality.value] += leaf.num_items
    expected.tally["media",] = manifest.num_media
    expected.tally["bytes of media",] = manifest.num_media_bytes
    expected.tally["uses of media",] = manifest.num_media_uses
    expected.tally[KEY_SUM] = int(manifest.media_digest, 16)
    for kind in sorted(set(expected.tally) | {kind for kind in found.tally if kind[0] in _KINDS}):
        found.expect(where, f"{' '.join(kind)} in the tables", expected.tally[kind], found.tally[kind])


_KINDS: Final = ("examples of", "rejects of", "items", "media", "bytes of media", "uses of media", *KEY_SUM)


def _load(storage: Storage, entry: ObjectEntry, columns: list[str], checked: Checked) -> pl.DataFrame | None:
    data = checked.read(storage, entry)
    if data is None:
        return None
    try:
        frame = pl.read_parquet(BytesIO(data), columns=columns)
    except (pl.exceptions.PolarsError, OSError) as error:
        checked.blame(entry.path, f"is no table as it was written: {error}", FAULT)
        return None
    checked.expect(entry.path, "rows", entry.num_rows, len(frame))
    return frame


def _check_keys(frame: pl.DataFrame, entry: ObjectEntry, then_by: list[pl.Expr], checked: Checked) -> None:
    """Rows are sorted, each once, and keys begin with the bits that the file is named by."""
    order = frame.select(pl.concat_str("item_key", *then_by).alias("order"))["order"]
    if not (order.shift(1) < order).slice(1).all():
        checked.blame(entry.path, "rows are not sorted, or stand twice", FAULT)
    first, last = key_range(prefix_of(entry))
    outside = frame.filter(~pl.col("item_key").is_between(pl.lit(first), pl.lit(last)))
    if len(outside):
        key = outside["item_key"][0]
        checked.blame(entry.path, f"{len(outside)} rows of other files, the first of item {key}", FAULT)
