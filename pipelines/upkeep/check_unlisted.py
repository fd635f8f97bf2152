"""What the manifest in force does not list, and is trusted all the same: commit records, and objects whose
name tells their digest (token counts, audits, kept recipes, findings of the probe, what is listed elsewhere).

A commit record bears a digest of its own. What it says of objects is held against the manifest and against
their names besides, so one that its writer got wrong is found, too. A name tells 16 digits, so a flipped bit
passes once in 2^64. Memory is a window of one object, and the paths that the manifest lists.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from infra.storage import Storage, StoredObject
from pipelines.upkeep.findings import Checked
from pipelines.upkeep.inventory import read_commit
from pipelines.upkeep.object_file import ObjectFile
from schemas.corpus import CommitRecord, Manifest, ObjectEntry, commit_path, digest_in_name
from schemas.errors import CorruptError, MismatchError, NotFoundError


@dataclass(frozen=True)
class UnlistedCheck:
    """Checks what the manifest does not list."""

    storage: Storage
    manifest: Manifest

    @cached_property
    def _listed(self) -> dict[str, ObjectEntry]:
        return {entry.path: entry for entry in self.manifest.list_objects()}

    def check_records(self, paths: Iterable[str]) -> Checked:
        """Commit records are as they were written, and agree with what else is known of their objects."""
        checked = Checked()
        for path in paths:
            try:
                record = read_commit(self.storage, path)
            except (CorruptError, MismatchError) as error:
                checked.blame(path, str(error))
                continue
            for fault in self._list_faults(record, path) if record else ():
                checked.blame(path, fault)
        return checked

    def _list_faults(self, record: CommitRecord, path: str) -> Iterator[str]:
        if not path.startswith(commit_path(record.unit, record.fingerprint).removesuffix(".json")):
            yield "is the record of another unit"
        for entry in record.objects:
            digits = digest_in_name(entry.path)
            if not (digits and entry.sha256.startswith(digits)):
                yield f"tells another digest of {entry.path} than its name"
            if self._listed.get(entry.path, entry) != entry:
                yield f"tells otherwise of {entry.path} than the manifest"

    def check_named(self, objects: Iterable[StoredObject]) -> Checked:
        """Objects hold what their names tell; one that has gone meanwhile is nobody's fault."""
        checked = Checked()
        for one in objects:
            digits = digest_in_name(one.path)
            entry = ObjectEntry(path=one.path, sha256=digits, num_bytes=one.num_bytes, num_rows=0)
            try:
                found = ObjectFile(self.storage, entry).finish()
            except NotFoundError:
                continue
            if not (digits and found.startswith(digits)):
                checked.blame(one.path, "does not hold the bytes that were written")
        return checked
