"""One leaf of the plan: its items in the tables, in its sample shard and in the feature shards of every spec.

    tables           sample shard          feature shard of a spec
    media rows   =   KEY.0.jpg, ...    ->  KEY.feat.bin: as many media, every view's checksum
    all columns  =   KEY.json, bytewise    KEY.json: key, modality, media facts
    every key    =   once              =   once, or among the rejects of the spec

So a corpus of two shards that changed places, or of tables and shards of different days, is found out though
every digest is right. Memory is the items of a leaf, without media, and one member of a tar.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import msgspec

from infra.storage import Storage
from operators.feature_file import FeatureHeader, describe_mismatch, open_section, read_header, view_range
from pipelines.commit import parse_stored, read_object
from pipelines.shard.items import Item, ItemTables, describe_medium
from pipelines.shard.tables import tables_of
from pipelines.shard.write import describe_item
from pipelines.upkeep.check_tars import Look, check_tar
from pipelines.upkeep.findings import Checked
from schemas.corpus import Manifest, ObjectEntry, ShardEntry
from schemas.digest import sha256_hex
from schemas.errors import CorruptError, NotFoundError
from schemas.feature import FeatureSpec
from schemas.plan import Leaf


@dataclass(frozen=True, slots=True)
class LeafUnit:
    """A leaf, and the shards of its items as far as they are made."""

    leaf: Leaf
    shard: ShardEntry | None
    features: tuple[tuple[str, ShardEntry], ...]
    """By the short digest of the spec."""


class LeafCheck:
    """Checks leaves; keeps the files of the tables that it read last."""

    def __init__(self, storage: Storage, manifest: Manifest) -> None:
        self._storage = storage
        self._tables = ItemTables(storage, tables_of(manifest))
        self._rejected = {
            digest: frozenset(reject.key for reject in features.rejects)
            for digest, features in manifest.features.items()
        }
        self._specs = {
            digest: read_spec(storage, features.spec) for digest, features in manifest.features.items()
        }

    def check(self, unit: LeafUnit) -> Checked:
        """Check the tables of a leaf against all of its shards."""
        checked = Checked()
        items = self._read_items(unit.leaf, checked)
        if unit.shard:
            expected = None if items is None else _expect_samples(items)
            checked.add(check_tar(self._storage, unit.shard, expected, len(items or ())))
        for digest, shard in unit.features:
            checked.add(self._check_features(digest, shard, items))
        return checked

    def _read_items(self, leaf: Leaf, checked: Checked) -> list[Item] | None:
        where = f"plan {leaf.name}"
        try:
            items = list(self._tables.read_items(leaf))
        except (CorruptError, NotFoundError) as error:
            checked.blame("tables", str(error), "mend what else is told of them first")
            return None
        checked.expect(where, "items in the tables", leaf.num_items, len(items))
        num_bytes = sum(medium.facts.num_bytes for item in items for medium in item.media)
        checked.expect(where, "bytes of media in the tables", leaf.num_media_bytes, num_bytes)
        for item in items:
            for medium in item.media:
                name = f"uses of medium {medium.position} of item {item.key}"
                checked.expect(where, name, len(item.examples), medium.times_used)
        return items

    def _check_features(self, digest: str, shard: ShardEntry, items: Sequence[Item] | None) -> Checked:
        if items is None:
            return check_tar(self._storage, shard, None, 0)
        rejected = self._rejected[digest]
        encoded = [item for item in items if item.key not in rejected]
        checks = [_FeatureCheck(item, self._specs[digest]) for item in encoded]
        expected = {name: look for check in checks for name, look in check.looks.items()}
        checked = check_tar(self._storage, shard, expected, len(encoded))
        checked.tally["encoded", digest] += len(encoded)
        checked.tally["views", digest] += sum(check.num_views for check in checks)
        checked.tally["rejects", digest] += len(items) - len(encoded)
        return checked


def read_spec(storage: Storage, entry: ObjectEntry) -> FeatureSpec | None:
    """The spec of a cache; None when it is not as it was written, which is told of the object itself."""
    try:
        return parse_stored(read_object(storage, entry), FeatureSpec, entry.path)
    except (CorruptError, NotFoundError):
        return None


def _expect_samples(items: Sequence[Item]) -> dict[str, Look]:
    expected: dict[str, Look] = {}
    for item in items:
        for medium in item.media:
            name = f"{item.key}.{medium.position}.{medium.facts.extension}"
            expected[name] = partial(_look_at_digest, medium.facts.sha256)
        expected[f"{item.key}.json"] = partial(_look_at_digest, sha256_hex(describe_item(item)))
    return expected


def _look_at_digest(sha256: str, data: bytes) -> str | None:
    return None if sha256_hex(data) == sha256 else "holds other bytes"


@dataclass(slots=True)
class _FeatureCheck:
    """Looks at the two members of an item in a feature shard."""

    item: Item
    spec: FeatureSpec | None
    num_views: int = 0
    looks: dict[str, Callable[[bytes], str | None]] = field(init=False)

    def __post_init__(self) -> None:
        key = self.item.key
        self.looks = {f"{key}.feat.bin": self.look_at_views, f"{key}.json": self.look_at_facts}

    def look_at_views(self, data: bytes) -> str | None:
        """What is wrong with `KEY.feat.bin`."""
        try:
            header = read_header(data)
            for index in range(len(header.views)):
                offset, length = view_range(header, index)
                open_section(header, index, data[offset : offset + length])
        except CorruptError as error:
            return f"is damaged: {error}"
        self.num_views = len(header.views)
        if len(data) != header.num_bytes or not _is_zero_between(data, header):
            return "holds something between its views"
        if len(header.media) != len(self.item.media):
            return f"tells of {len(header.media)} media, the tables of {len(self.item.media)}"
        return describe_mismatch(header, self.spec) if self.spec else None

    def look_at_facts(self, data: bytes) -> str | None:
        """What is wrong with `KEY.json`."""
        try:
            told = msgspec.json.decode(data, type=_ToldItem)
        except msgspec.MsgspecError as error:
            return f"is not readable: {error}"
        wanted = [describe_medium(medium) for medium in self.item.media]
        facts = [
            {name: value for name, value in medium.items() if name in wanted[0]} for medium in told.media
        ]
        is_same = (told.key, told.modality, facts) == (self.item.key, self.item.modality.value, wanted)
        return None if is_same else "tells other facts than the tables"


class _ToldItem(msgspec.Struct, frozen=True):
    key: str
    modality: str
    media: list[dict[str, object]]


def _is_zero_between(data: bytes, header: FeatureHeader) -> bool:
    ends = [header.header_bytes, *(view.offset + view.length for view in header.views)]
    starts = [*(view.offset for view in header.views), len(data)]
    return not any(any(data[end:start]) for end, start in zip(ends, starts, strict=True))
