"""Verify: is everything that the manifest in force lists there, as it was written, and does it fit together?

    tables, quarantine, spec, weights   digest and size; rows in order, each once; totals by source and code
    shards, leaf by leaf                see `check_leaves`, `check_tars`
    plan                                leaves that overlap nowhere; a shard for each
    manifests                           digest
    all else                            see `check_unlisted`

Every bit of every object that the manifest lists is covered by a digest, and the manifest by the pointer;
what it does not list bears its digest, or is named by it. That no manifest lists an object is told, not
blamed. Left out is what nobody reads back: scratch and notices (`scratch/`, `publishing/`, `removing/`) of
runs at work or killed, and files that are not ours, reports among them.

A unit is one file of a table or one leaf, so memory is that of sharding. All bytes are read once, tables
twice.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from infra.storage import Storage, StoredObject
from pipelines.commit import load_manifest
from pipelines.engine import Engine, Progress, no_progress, run_as_finished
from pipelines.upkeep.check_leaves import LeafCheck, LeafUnit, read_spec
from pipelines.upkeep.check_tables import TABLE_CHECKS, check_totals
from pipelines.upkeep.check_unlisted import UnlistedCheck
from pipelines.upkeep.findings import FAULT, REBUILD, Checked, Finding
from pipelines.upkeep.inventory import (
    digest_in,
    list_commits,
    list_data,
    list_lengths,
    list_manifests,
    list_named,
    list_scratch,
    read_manifest,
    sum_bytes,
)
from schemas.corpus import POINTER_PATH, Manifest, ObjectEntry, ShardEntry
from schemas.errors import CorruptError, MismatchError, NotFoundError
from schemas.record import Modality

UNLISTED_PER_UNIT: Final = 200


@dataclass(frozen=True, slots=True)
class ObjectUnit:
    """A file of a table, or an object of which only the digest counts."""

    kind: str
    entry: ObjectEntry


@dataclass(frozen=True, slots=True)
class RecordsUnit:
    """Some commit records."""

    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NamedUnit:
    """Some objects that only their names tell of."""

    objects: tuple[StoredObject, ...]


CheckUnit = ObjectUnit | LeafUnit | RecordsUnit | NamedUnit


@dataclass(frozen=True, slots=True)
class VerifyWorker:
    """Builds the checking function inside a worker."""

    storage: Storage
    manifest: Manifest

    def build(self) -> Callable[[CheckUnit], Checked]:
        """See `Worker.build`."""
        leaves = LeafCheck(self.storage, self.manifest)
        unlisted = UnlistedCheck(self.storage, self.manifest)

        def check(unit: CheckUnit) -> Checked:
            match unit:
                case LeafUnit():
                    return leaves.check(unit)
                case RecordsUnit():
                    return unlisted.check_records(unit.paths)
                case NamedUnit():
                    return unlisted.check_named(unit.objects)
                case ObjectUnit():
                    if unit.kind in TABLE_CHECKS:
                        return TABLE_CHECKS[unit.kind](self.storage, unit.entry)
                    checked = Checked()
                    checked.read(self.storage, unit.entry)
                    return checked

        return check


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What a verification came to."""

    findings: tuple[Finding, ...]
    num_objects: int = 0
    num_bytes: int = 0
    num_items: int = 0
    num_manifests: int = 0
    num_commits: int = 0
    num_unlisted: int = 0
    """Objects that no manifest lists."""
    num_unlisted_bytes: int = 0
    num_scratch: int = 0
    num_scratch_bytes: int = 0


def verify(storage: Storage, engine: Engine, progress: Progress = no_progress) -> Verified:
    """Check everything that a corpus holds.

    Raises:
        NotFoundError: when there is no corpus.
    """
    try:
        manifest = load_manifest(storage)
    except (CorruptError, MismatchError, NotFoundError) as error:
        if not storage.exists(POINTER_PATH):
            raise
        way_out = "restore it, or delete corpus.json and run the build again"
        return Verified(findings=(Finding(POINTER_PATH, str(error), way_out),))
    total = Checked()
    stored = list_data(storage)
    units = [*_list_units(manifest), *_list_unlisted(storage, manifest, stored)]
    worker = VerifyWorker(storage, manifest)
    for _, checked in run_as_finished(engine, worker, units, "verify", progress):
        total.add(checked)
    _check_plan(manifest, total)
    if not total.findings:
        check_totals(manifest, total, manifest.path)
        _check_sets(storage, manifest, total)
    _check_sizes(manifest, stored, total)
    listed = _check_manifests(storage, total)
    unlisted = [one for one in stored if one.path not in listed]
    scratch = list_scratch(storage)
    return Verified(
        findings=tuple(sorted(set(total.findings))),
        num_objects=total.num_objects,
        num_bytes=total.num_bytes,
        num_items=sum(leaf.num_items for leaf in manifest.plan),
        num_manifests=len(list_manifests(storage)),
        num_commits=sum(len(unit.paths) for unit in units if isinstance(unit, RecordsUnit)),
        num_unlisted=len(unlisted),
        num_unlisted_bytes=sum_bytes(unlisted),
        num_scratch=len(scratch),
        num_scratch_bytes=sum_bytes(scratch),
    )


def _list_units(manifest: Manifest) -> Iterator[CheckUnit]:
    for kind, entries in (
        ("examples", manifest.examples),
        ("media", manifest.media),
        ("quarantine", manifest.quarantine),
    ):
        yield from (ObjectUnit(kind, entry) for entry in entries)
    for features in manifest.features.values():
        yield from (ObjectUnit("file", entry) for entry in (features.spec, features.attention))
    shards = {shard.name: shard for shard in manifest.shards}
    sets = [
        (digest, {shard.name: shard for shard in features.shards})
        for digest, features in manifest.features.items()
    ]
    for leaf in manifest.plan:
        encoded = tuple((digest, named[leaf.name]) for digest, named in sets if leaf.name in named)
        yield LeafUnit(leaf, shards.get(leaf.name), encoded)


def _list_unlisted(
    storage: Storage, manifest: Manifest, stored: Sequence[StoredObject]
) -> Iterator[CheckUnit]:
    """What the manifest in force does not list, in units of some size."""
    for records in _cut(list_commits(storage)):
        yield RecordsUnit(tuple(record.path for record in records))
    listed = {entry.path for entry in manifest.list_objects()}
    others = [one for one in stored if one.path not in listed]
    for objects in _cut([*others, *list_lengths(storage), *list_named(storage)]):
        yield NamedUnit(tuple(objects))


def _cut(objects: Sequence[StoredObject]) -> Iterator[Sequence[StoredObject]]:
    for start in range(0, len(objects), UNLISTED_PER_UNIT):
        yield objects[start : start + UNLISTED_PER_UNIT]


def _check_plan(manifest: Manifest, total: Checked) -> None:
    """Leaves are sorted and overlap nowhere; every leaf has its shards, and no shard is without a leaf."""
    for one, other in pairwise(manifest.plan):
        if one.modality is other.modality and (
            other.prefix.startswith(one.prefix) or other.prefix < one.prefix
        ):
            total.blame(manifest.path, f"leaves {one.name} and {other.name} overlap or are not sorted", FAULT)
    names = [leaf.name for leaf in manifest.plan]
    with_media = [leaf.name for leaf in manifest.plan if leaf.modality is not Modality.TEXT]
    if manifest.shards:
        _check_names(manifest.shards, names, manifest.path, total)
    for features in manifest.features.values():
        _check_names(features.shards, with_media, manifest.path, total)


def _check_names(shards: Sequence[ShardEntry], names: Sequence[str], where: str, total: Checked) -> None:
    found = Counter(shard.name for shard in shards)
    odd = sorted((found - Counter(names)) + (Counter(names) - found))
    if odd:
        total.blame(where, f"{len(odd)} shards are not those of the plan, the first is {odd[0]}", FAULT)


def _check_sizes(manifest: Manifest, stored: Sequence[StoredObject], total: Checked) -> None:
    """Nothing was appended: tars are read no further than they were written."""
    sizes = {one.path: one.num_bytes for one in stored}
    for entry in manifest.list_objects():
        if sizes.get(entry.path, 0) > entry.num_bytes:
            total.blame(entry.path, f"{sizes[entry.path]} bytes, {entry.num_bytes} were written")


def _check_sets(storage: Storage, manifest: Manifest, total: Checked) -> None:
    """Totals and names of the caches."""
    for digest, features in manifest.features.items():
        where = f"features/{digest}"
        spec = read_spec(storage, features.spec)
        if spec is None or spec.short_digest != digest:
            total.blame(features.spec.path, "is the spec of another cache")
        total.expect(where, "items", features.num_items, total.tally["encoded", digest])
        total.expect(where, "views", features.num_views, total.tally["views", digest])
        total.expect(where, "rejects of items", len(features.rejects), total.tally["rejects", digest])


def _check_manifests(storage: Storage, total: Checked) -> set[str]:
    """Manifests that are not in force are whole, too; the paths of all that any of them lists."""
    listed: set[str] = set()
    for one in list_manifests(storage):
        try:
            manifest = read_manifest(storage, digest_in(one.path))
        except (CorruptError, MismatchError, NotFoundError) as error:
            total.blame(one.path, str(error), REBUILD)
            continue
        listed.update(entry.path for entry in manifest.list_objects())
    return listed
