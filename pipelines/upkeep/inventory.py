"""What lies in a corpus, and which manifests and commits list it.

Only what this program writes under names of its own is looked at: a user's files and reports are nobody's.
Audits, kept recipes and the cache of the probe are never garbage.
"""

import re
from collections.abc import Iterable
from typing import Final

from infra.storage import Storage, StoredObject
from pipelines.commit import parse_commit, parse_stored
from pipelines.scatter import SCRATCH
from schemas.corpus import CommitRecord, Manifest, manifest_path
from schemas.digest import sha256_hex
from schemas.errors import ConfigError, CorruptError, NotFoundError

FOLDERS: Final = ("examples", "media", "quarantine", "shards", "features")
LENGTHS: Final = "lengths"
COMMITS: Final = "commits"
MANIFESTS: Final = "manifests"
MIN_PREFIX: Final = 8
"""Digits by which a manifest may be named."""

_OBJECT: Final = re.compile(
    r"(examples|media|quarantine)/[^/]+-[0-9a-f]{16}\.parquet"
    r"|shards/[^/]+-[0-9a-f]{16}\.(tar|idx)"
    r"|features/[0-9a-f]{16}/([^/]+-[0-9a-f]{16}\.(tar|idx|safetensors)|spec\.json)"
)
_LENGTHS: Final = re.compile(rf"{LENGTHS}/[0-9a-f]{{16}}/[^/]+-[0-9a-f]{{16}}\.parquet")
_MANIFEST: Final = re.compile(rf"{MANIFESTS}/[0-9a-f]{{64}}\.json")
_NAMED: Final = re.compile(
    r"features/[0-9a-f]{16}/audits/[0-9a-f]{64}\.json|recipes/[^/]+-[0-9a-f]{16}\.json|probes/[^/]+-[0-9a-f]{16}"
)
_COMMIT: Final = re.compile(rf"{COMMITS}/(?P<unit>[^/]+)-[0-9a-f]{{32}}(-[0-9]+)?\.json")


def list_data(storage: Storage) -> list[StoredObject]:
    """Tables, shards, indexes, specs and weights, whoever lists them."""
    found = (one for folder in FOLDERS for one in storage.list_objects(folder))
    return [one for one in found if _OBJECT.fullmatch(one.path)]


def list_lengths(storage: Storage) -> list[StoredObject]:
    """Token counts of examples, which no manifest lists: they belong to the examples that were counted."""
    return [one for one in storage.list_objects(LENGTHS) if _LENGTHS.fullmatch(one.path)]


def list_named(storage: Storage) -> list[StoredObject]:
    """Audits, kept recipes and findings of the probe, which nothing lists."""
    found = (one for folder in ("features", "recipes", "probes") for one in storage.list_objects(folder))
    return [one for one in found if _NAMED.fullmatch(one.path)]


def list_scratch(storage: Storage) -> list[StoredObject]:
    """What runs pass between their stages, or left when they were killed."""
    return storage.list_objects(SCRATCH)


def list_commits(storage: Storage) -> list[StoredObject]:
    """Commit records."""
    return [one for one in storage.list_objects(COMMITS) if _COMMIT.fullmatch(one.path)]


def list_manifests(storage: Storage) -> list[StoredObject]:
    """Manifests, the youngest first."""
    found = [one for one in storage.list_objects(MANIFESTS) if _MANIFEST.fullmatch(one.path)]
    return sorted(found, key=lambda one: (one.age_s, one.path))


def digest_in(path: str) -> str:
    """The digest in the path of a manifest."""
    return path.removeprefix(f"{MANIFESTS}/").removesuffix(".json")


def unit_in(path: str) -> str:
    """The unit in the path of a commit record."""
    found = _COMMIT.fullmatch(path)
    return found["unit"] if found else ""


def read_manifest(storage: Storage, sha256: str) -> Manifest:
    """A manifest that need not be in force.

    Raises:
        NotFoundError: when it is not there.
        CorruptError: when its bytes are not those of its name.
    """
    path = manifest_path(sha256)
    data = storage.read_bytes(path)
    if sha256_hex(data) != sha256:
        raise CorruptError(f"{storage.url}/{path} is damaged; restore it, or delete it if nothing pins it")
    return parse_stored(data, Manifest, f"{storage.url}/{path}")


def read_commit(storage: Storage, path: str) -> CommitRecord | None:
    """A commit record; None when it has gone meanwhile.

    Raises:
        CorruptError: when it is no commit record, or not as it was written.
    """
    try:
        data = storage.read_bytes(path)
    except NotFoundError:
        return None
    return parse_commit(data, f"{storage.url}/{path}")


def resolve_digest(storage: Storage, prefix: str) -> str:
    """The digest of the one manifest that begins so.

    Raises:
        ConfigError: when none does, or several do.
    """
    digests = [digest_in(one.path) for one in list_manifests(storage)]
    found = [digest for digest in digests if len(prefix) >= MIN_PREFIX and digest.startswith(prefix)]
    if len(found) != 1:
        raise ConfigError(
            f"{storage.url}: {len(found)} manifests have a digest that begins with {prefix!r}; give at least "
            f"{MIN_PREFIX} digits of one of those under {MANIFESTS}/"
        )
    return found[0]


def sum_bytes(objects: Iterable[StoredObject]) -> int:
    """What objects take."""
    return sum(one.num_bytes for one in objects)
