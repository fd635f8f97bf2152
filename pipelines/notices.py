"""What builds and collections of garbage tell each other, so that neither ruins the other's work.

A build may want an object that no manifest lists yet, at the moment in which a collector has found out that
none does. Both write down what they are about to do, then look what the other has written, then act:

    build        publishing/MANIFEST  ->  no removal names what it lists, all of it is there  ->  pointer
    collector    removing/NUMBER.json ->  what manifests and publications list is spared      ->  removed

Whichever notice is written second, its writer sees the first; no clock decides. Only what a killed process
leaves is told by age: a removal counts for `LEASE_S`, and a collector stops removing long before that.
"""

import contextlib
import time
import uuid
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from infra.storage import Storage
from schemas.configuration import StrictModel
from schemas.digest import canonical_json
from schemas.errors import NotFoundError

PUBLICATIONS: Final = "publishing"
REMOVALS: Final = "removing"
LEASE_S: Final = 3600.0
"""A notice of removal that is older was left by a collector that is dead."""
REMOVAL_LIMIT_S: Final = LEASE_S / 4


class _Removal(StrictModel):
    paths: list[str]


@dataclass(frozen=True, slots=True)
class RemovalPermit:
    """Permission to remove what was announced, for a while."""

    until_s: float

    @property
    def is_valid(self) -> bool:
        """Whether there is time left."""
        return time.monotonic() < self.until_s


@contextlib.contextmanager
def publication_notice(storage: Storage, manifest_sha256: str) -> Generator[None]:
    """Tell, for as long as the block runs, that this stored manifest may become the one in force."""
    path = f"{PUBLICATIONS}/{manifest_sha256}"
    storage.write_scratch(path, [b""])
    try:
        yield
    finally:
        storage.remove(path)


def list_publications(storage: Storage) -> list[str]:
    """Digests of the manifests that may become the one in force any moment."""
    return [path.rpartition("/")[2] for path in storage.list(PUBLICATIONS)]


@contextlib.contextmanager
def removal_notice(storage: Storage, paths: Sequence[str]) -> Generator[RemovalPermit]:
    """Tell, for as long as the block runs, that these objects will be removed."""
    permit = RemovalPermit(time.monotonic() + REMOVAL_LIMIT_S)
    path = f"{REMOVALS}/{uuid.uuid4().hex}.json"
    storage.create(path, canonical_json({"paths": list(paths)}))
    try:
        yield permit
    finally:
        storage.remove(path)


def find_removals(storage: Storage) -> frozenset[str]:
    """Paths that a collector is about to remove."""
    found: set[str] = set()
    for notice in storage.list_objects(REMOVALS):
        if notice.age_s < LEASE_S:
            with contextlib.suppress(NotFoundError, ValidationError):
                found.update(_Removal.model_validate_json(storage.read_bytes(notice.path)).paths)
    return frozenset(found)


def drop_old_notices(storage: Storage, min_age_s: float) -> None:
    """Remove the notices of dead processes."""
    for notice in storage.list_objects(REMOVALS):
        if notice.age_s >= LEASE_S:
            storage.remove(notice.path)
    for notice in storage.list_objects(PUBLICATIONS):
        if notice.age_s >= min_age_s:
            storage.remove(notice.path)
