"""Exactly once, on top of at-least-once: how a unit of work becomes part of a corpus.

    work  ->  objects, named by digest, put in any order     (invisible: nothing lists them yet)
          ->  commits/UNIT-FINGERPRINT.json, created exclusively  (the unit is done)
          ->  manifest, named by digest                      (the stage is done)
          ->  corpus.json replaced                           (readers see it; see `pipelines.notices`)

A process may die between any two steps and be started again: what is committed is skipped, what is not is
made again with the same bytes. Two workers may finish the same unit: one commit wins.
"""

import io
from collections.abc import Iterable, Iterator
from typing import Final

from pydantic import ValidationError

from infra.storage import SeekableFile, Storage
from pipelines.notices import find_removals, publication_notice
from schemas.configuration import Model
from schemas.corpus import (
    FORMAT_VERSION,
    POINTER_PATH,
    CommitRecord,
    Manifest,
    ObjectEntry,
    Pointer,
    StoredCommitRecord,
    commit_path,
    digest_in_name,
    manifest_path,
    object_path,
)
from schemas.digest import canonical_json, sha256_hex
from schemas.errors import ConflictError, CorruptError, MismatchError, NotFoundError

FIRST_WINS: Final = "first wins"
MUST_AGREE: Final = "must agree"


def put_object(
    storage: Storage, folder: str, name: str, extension: str, data: bytes, num_rows: int
) -> ObjectEntry:
    """Store bytes under a name that holds their digest."""
    return put_file(storage, folder, name, extension, io.BytesIO(data), sha256_hex(data), num_rows)


def put_file(
    storage: Storage, folder: str, name: str, extension: str, file: SeekableFile, sha256: str, num_rows: int
) -> ObjectEntry:
    """Store an open file, whose digest is known, under a name that holds the digest."""
    path = object_path(folder, name, sha256, extension)
    storage.put(path, file)
    return ObjectEntry(path=path, sha256=sha256, num_bytes=file.seek(0, io.SEEK_END), num_rows=num_rows)


def read_object(storage: Storage, entry: ObjectEntry) -> bytes:
    """The bytes of an object, checked.

    Raises:
        CorruptError: when they are not those that were written.
    """
    data = storage.read_bytes(entry.path)
    if sha256_hex(data) != entry.sha256:
        raise CorruptError(
            f"{storage.url}/{entry.path} does not hold the bytes that were written; "
            "delete it and run the build again"
        )
    return data


def read_named(storage: Storage, path: str) -> bytes:
    """The bytes of an object that nothing lists, checked by its name.

    Raises:
        NotFoundError: when it is gone.
        CorruptError: when they are not those that the name tells.
    """
    data = storage.read_bytes(path)
    if not sha256_hex(data).startswith(digest_in_name(path)):
        raise CorruptError(f"{storage.url}/{path} does not hold the bytes that were written; delete it")
    return data


def find_commit(storage: Storage, unit: str, fingerprint: str) -> CommitRecord | None:
    """The commit record of a unit, if it is done and its objects are there."""
    for record in _list_records(storage, unit, fingerprint):
        if all(storage.exists(entry.path) for entry in record.objects):
            return record
    return None


def commit(storage: Storage, record: CommitRecord, when_beaten: str = MUST_AGREE) -> CommitRecord:
    """Declare a unit done; the record that stands afterwards is returned.

    A record whose objects are gone is succeeded by the next one of the unit; nothing is overwritten.

    Args:
        storage: the corpus.
        record: what was made, and from what.
        when_beaten: `MUST_AGREE`: another record with other objects is an error; `FIRST_WINS`: it stands.

    Raises:
        ConflictError: when bytes that must be the same differ.
    """
    data = record.to_bytes()
    attempt = 0
    while not storage.create(commit_path(record.unit, record.fingerprint, attempt), data):
        winner = _read_record(storage, record.unit, record.fingerprint, attempt)
        if when_beaten == MUST_AGREE and winner.objects != record.objects:
            raise ConflictError(
                f"{record.unit}: two workers made different bytes from the same input: "
                f"{_names(winner.objects)} and {_names(record.objects)}. "
                "Compare library versions of the machines; they must be the same"
            )
        if all(storage.exists(entry.path) for entry in winner.objects):
            return winner
        attempt += 1
    return record


def _list_records(storage: Storage, unit: str, fingerprint: str) -> Iterator[CommitRecord]:
    """All records of a unit, the first one first."""
    attempt = 0
    while storage.exists(commit_path(unit, fingerprint, attempt)):
        try:
            yield _read_record(storage, unit, fingerprint, attempt)
        except NotFoundError:  # collected as garbage this moment
            return
        attempt += 1


def _read_record(storage: Storage, unit: str, fingerprint: str, attempt: int) -> CommitRecord:
    path = commit_path(unit, fingerprint, attempt)
    record = parse_commit(storage.read_bytes(path), f"{storage.url}/{path}")
    if (record.unit, record.fingerprint) != (unit, fingerprint):
        raise CorruptError(f"{storage.url}/{path} is the record of another unit; delete it")
    return record


def parse_commit(data: bytes, where: str) -> CommitRecord:
    """A commit record, checked by the digest that it bears.

    Raises:
        MismatchError: for a format version that this release does not know.
        CorruptError: when it is not as it was written.
    """
    stored = parse_stored(data, StoredCommitRecord, where)
    record = stored.unseal()
    if record is None or canonical_json(stored.model_dump(mode="json", exclude_none=True)) != data:
        raise CorruptError(f"{where} is damaged: it is not the record that was written; delete it")
    return record


def load_manifest(storage: Storage) -> Manifest:
    """The manifest in force.

    Raises:
        NotFoundError: when nothing was built here yet.
        CorruptError: when its bytes are not those that the pointer names.
    """
    try:
        pointer = _load_pointer(storage.read_bytes(POINTER_PATH), storage)
    except NotFoundError as error:
        raise NotFoundError(
            f"{storage.url} holds no corpus; build one with `onetoken ingest` "
            "(paths start where the command is run)"
        ) from error
    data = storage.read_bytes(pointer.manifest)
    if sha256_hex(data) != pointer.sha256:
        raise CorruptError(f"{storage.url}/{pointer.manifest} is damaged; restore it or build again")
    return parse_stored(data, Manifest, f"{storage.url}/{pointer.manifest}")


def load_pinned_manifest(storage: Storage, sha256: str) -> Manifest:
    """The manifest of this digest, in force or not: what a checkpoint was trained on.

    Raises:
        NotFoundError: when it is gone.
        CorruptError: when its bytes are not those of the digest.
    """
    path = manifest_path(sha256)
    try:
        data = storage.read_bytes(path)
    except NotFoundError as error:
        raise NotFoundError(
            f"{storage.url} no longer holds the manifest {sha256[:16]} that this run was trained on; "
            "start a new run"
        ) from error
    if sha256_hex(data) != sha256:
        raise CorruptError(f"{storage.url}/{path} is damaged; restore it or start a new run")
    return parse_stored(data, Manifest, f"{storage.url}/{path}")


def publish_manifest(storage: Storage, manifest: Manifest, derived_from: Manifest | None) -> None:
    """Store a manifest and point the corpus to it, if the corpus is still what the manifest was made from.

    Args:
        storage: the corpus.
        manifest: what it shall hold.
        derived_from: the manifest in force when the work began; None: there was none.

    Raises:
        ConflictError: when somebody else published meanwhile, whose work would be lost otherwise; when
            garbage was collected meanwhile, and with it objects that the manifest lists.
    """
    data = manifest.to_bytes()
    pointer = _point_to(sha256_hex(data))
    storage.put(pointer.manifest, io.BytesIO(data))
    wanted = _pack_pointer(pointer)
    if storage.exists(POINTER_PATH) and storage.read_bytes(POINTER_PATH) == wanted:
        return
    expected = _pack_pointer(_point_to(derived_from.digest)) if derived_from else None
    with publication_notice(storage, pointer.sha256):
        _check_objects(storage, manifest, derived_from, pointer.manifest)
        storage.replace(POINTER_PATH, wanted, expected=expected)


def _check_objects(storage: Storage, manifest: Manifest, derived_from: Manifest | None, path: str) -> None:
    """See that what a manifest adds is there and will stay; what is listed in force needs no look."""
    listed = {entry.path for entry in derived_from.list_objects()} if derived_from else set[str]()
    added = {entry.path for entry in manifest.list_objects()} - listed | {path}
    leaving = added & find_removals(storage)
    folders = {path.rpartition("/")[0] for path in added}
    gone = added.difference(*(storage.list(folder) for folder in folders))
    if leaving or gone:
        raise ConflictError(
            f"{storage.url}: garbage was collected while this was built, and with it {min(leaving | gone)} "
            f"and {len(leaving | gone) - 1} more objects; when that is done, run the command again"
        )


def _point_to(sha256: str) -> Pointer:
    return Pointer(manifest=manifest_path(sha256), sha256=sha256)


def _pack_pointer(pointer: Pointer) -> bytes:
    return canonical_json(pointer.model_dump(mode="json"))


def parse_stored(data: bytes, model: type[Model], where: str) -> Model:
    """Read a stored record back.

    Raises:
        MismatchError: for a format version that this release does not know.
        CorruptError: for anything else that is not the record.
    """
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        if any(detail["loc"] == ("format_version",) for detail in error.errors()):
            raise MismatchError(
                f"{where}: its format version is not {FORMAT_VERSION}; read it with the release that wrote it"
            ) from error
        raise CorruptError(f"{where} is damaged: {error.error_count()} fields are wrong") from error


def _load_pointer(data: bytes, storage: Storage) -> Pointer:
    return parse_stored(data, Pointer, f"{storage.url}/{POINTER_PATH}")


def _names(objects: Iterable[ObjectEntry]) -> str:
    return ", ".join(entry.path for entry in objects)
