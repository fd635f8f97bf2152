"""Garbage: what nothing that is kept lists, and is older than a day.

Kept are
- the manifest in force, those that were in force within the last `keep_s`, those named, and those that are
  about to be published: checkpoints pin manifests by digest and lie elsewhere, so age must speak for them;
- what these list, and the token counts of the examples that they list, for every tokenizer;
- what a commit record younger than `keep_s` lists: a build that is at work, or was killed and will go on.

A manifest was in force until the next one was written, so the youngest of the old ones is kept, too. A
commit record goes when an object of it is gone, and so its unit will be done again.

First everything is listed, then the removal is announced (`pipelines.notices`), then manifests and commits
are looked at once more, then what is still garbage goes. A build that wants one of these objects meanwhile
fails with an error that says so and is run again; it never publishes a manifest of objects that are gone.

Reads every commit record once; holds the paths of all objects.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from infra.storage import Storage, StoredObject
from pipelines.commit import load_manifest
from pipelines.engine import Progress, no_progress
from pipelines.notices import drop_old_notices, list_publications, removal_notice
from pipelines.upkeep.inventory import (
    digest_in,
    list_commits,
    list_data,
    list_lengths,
    list_manifests,
    list_scratch,
    read_commit,
    read_manifest,
    resolve_digest,
    unit_in,
)
from schemas.corpus import Manifest, lengths_unit
from schemas.errors import NotFoundError

DAY_S: Final = 86_400.0
KEEP_DAYS: Final = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepPolicy:
    """What is kept besides the manifest in force."""

    keep_s: float = KEEP_DAYS * DAY_S
    """For so long manifests that are no longer in force are kept, and work that is committed, not listed."""
    named: tuple[str, ...] = ()
    """Manifests by the first digits of their digests."""
    min_age_s: float = DAY_S
    """Nothing younger is removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What was removed, or would be."""

    removed: tuple[StoredObject, ...]
    swept: tuple[str, ...] = ()
    """Half-written objects that killed writers had left."""
    num_kept: int
    """Objects that are listed, or too young."""
    num_manifests: int
    """Kept."""
    num_left: int = 0
    """Garbage that there was no time for."""


def collect(
    storage: Storage, policy: KeepPolicy, is_dry_run: bool = False, progress: Progress = no_progress
) -> Collected:
    """Remove garbage, or tell what is garbage.

    Raises:
        NotFoundError: when there is no corpus.
        ConfigError: when a manifest that shall be kept is not there.
        CorruptError: when a manifest or commit record cannot be read, and so nobody knows what it lists.
    """
    in_force = load_manifest(storage)
    collector = _Collector(storage, policy, tuple(resolve_digest(storage, name) for name in policy.named))
    stored = [*list_data(storage), *list_lengths(storage), *list_manifests(storage)]
    reach = collector.find_reach(in_force)
    garbage = [one for one in stored if one.path not in reach.paths and one.age_s >= policy.min_age_s]
    found = Collected(
        removed=(*garbage, *collector.find_dead(garbage)),
        num_kept=len(stored) - len(garbage),
        num_manifests=len(reach.manifests),
    )
    if is_dry_run:
        return found
    doomed, num_left = collector.remove_data(garbage, progress)
    dead = [*collector.find_dead(doomed)]
    for one in dead:
        storage.remove(one.path)
    unfinished = storage.sweep_unfinished(policy.min_age_s)
    drop_old_notices(storage, policy.min_age_s)
    return replace(found, removed=(*doomed, *dead), swept=tuple(unfinished), num_left=num_left)


@dataclass(frozen=True, slots=True)
class _Reach:
    """Paths that stay, and digests of the manifests that stay."""

    paths: frozenset[str]
    manifests: frozenset[str]


@dataclass(slots=True)
class _Collector:
    storage: Storage
    policy: KeepPolicy
    named: tuple[str, ...]
    committed: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """What each commit record lists: they never change, so each is read once."""

    def find_reach(self, in_force: Manifest) -> _Reach:
        """What is kept, however young it is."""
        digests = {in_force.digest, *self.named, *self._recent()}
        paths: set[str] = {entry.path for entry in in_force.list_objects()}
        kept: set[str] = set()
        for digest in sorted(digests):
            manifest = in_force if digest == in_force.digest else self._find_manifest(digest)
            if manifest:
                kept.add(digest)
                paths.add(manifest.path)
                paths.update(entry.path for entry in manifest.list_objects())
        counted = {lengths_unit(path) for path in paths}
        for record in list_commits(self.storage):
            if record.age_s < self.policy.keep_s or unit_in(record.path) in counted:
                paths.update(self._listed_by(record.path))
        return _Reach(frozenset(paths), frozenset(kept))

    def remove_data(
        self, garbage: Sequence[StoredObject], progress: Progress
    ) -> tuple[list[StoredObject], int]:
        """Remove what is still garbage when that is announced; and tell for how much there was no time."""
        removed: list[StoredObject] = []
        if not garbage:
            return removed, 0
        with removal_notice(self.storage, [one.path for one in garbage]) as permit:
            spared = self._spare(list_publications(self.storage))
            doomed = [one for one in garbage if one.path not in spared]
            for one in doomed:
                if not permit.is_valid:
                    break
                self.storage.remove(one.path)
                removed.append(one)
                progress("collect", len(removed), len(doomed))
        return removed, len(doomed) - len(removed)

    def find_dead(self, garbage: Sequence[StoredObject]) -> Iterator[StoredObject]:
        """Commit records and scratch that are of no use once the garbage is gone."""
        gone = {one.path for one in garbage}
        yield from self._find_dead_commits(gone)
        yield from self._find_dead_scratch()

    def _find_dead_commits(self, gone: set[str]) -> Iterator[StoredObject]:
        """Records that lack an object; one that a good record of its unit succeeds stays with that."""
        records = list_commits(self.storage)
        stored = [*list_data(self.storage), *list_lengths(self.storage)]
        there = {one.path for one in stored} - gone
        live = {record.path for record in records if there.issuperset(self._listed_by(record.path))}
        live_units = {_unit_of(path) for path in live}
        for record in records:
            if _unit_of(record.path) not in live_units and record.age_s >= self.policy.min_age_s:
                yield record

    def _find_dead_scratch(self) -> Iterator[StoredObject]:
        """What runs left that have written nothing for long."""
        runs: dict[str, list[StoredObject]] = {}
        for one in list_scratch(self.storage):
            runs.setdefault(one.path.split("/")[1], []).append(one)
        for objects in runs.values():
            if min(one.age_s for one in objects) >= self.policy.min_age_s:
                yield from objects

    def _spare(self, publications: Sequence[str]) -> frozenset[str]:
        """What is kept by now; publications are read before the pointer that they end in."""
        announced = [self._find_manifest(digest) for digest in publications]
        spared = set(self.find_reach(load_manifest(self.storage)).paths)
        for manifest in announced:
            if manifest:
                spared.add(manifest.path)
                spared.update(entry.path for entry in manifest.list_objects())
        return frozenset(spared)

    def _recent(self) -> list[str]:
        """Manifests that are young, or were in force until a young one was written."""
        manifests = list_manifests(self.storage)
        num_young = sum(one.age_s < self.policy.keep_s for one in manifests)
        return [digest_in(one.path) for one in manifests[: num_young + 1 if num_young else 0]]

    def _find_manifest(self, digest: str) -> Manifest | None:
        try:
            return read_manifest(self.storage, digest)
        except NotFoundError:
            return None

    def _listed_by(self, path: str) -> tuple[str, ...]:
        if path not in self.committed:
            record = read_commit(self.storage, path)
            self.committed[path] = tuple(entry.path for entry in record.objects) if record else ()
        return self.committed[path]


def _unit_of(path: str) -> str:
    """The path of the first record of a unit."""
    stem = path.removesuffix(".json")
    unit, _, last = stem.rpartition("-")
    return unit if len(last) < 32 else stem
