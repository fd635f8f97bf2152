"""What a corpus is on disk: pointer, manifest, shard plan, commit records.

Objects are immutable and named by digest; a manifest lists every object that counts, and `corpus.json` points
to the one manifest in force. Everything here refuses a format version that it does not know.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Final, Literal, cast

from pydantic import Field

from schemas.configuration import StrictModel
from schemas.digest import SHORT, canonical_json, digest_of, sha256_hex
from schemas.plan import ShardPlan

FORMAT_VERSION: Final = 2
POINTER_PATH: Final = "corpus.json"
_DIGEST_IN_NAME: Final = re.compile(
    r"features/([0-9a-f]{16})/spec\.json|(?:.*/)?([0-9a-f]{64})\.json|.*-([0-9a-f]{16})(?:\.[a-z]+)?"
)


class ObjectEntry(StrictModel):
    """One immutable object: where it lies below the corpus, and what its bytes are."""

    path: str
    sha256: str
    num_bytes: int
    num_rows: int
    """Rows of a table, items of a shard."""


class ShardEntry(StrictModel):
    """A sample or feature shard with its index."""

    name: str
    tar: ObjectEntry
    index: ObjectEntry


class SourceTotals(StrictModel):
    """What became of the records of one source: read = written + rejected + not_taken."""

    name: str
    files: dict[str, int]
    """Rows of each annotation file."""
    read: int
    taken: int
    written: int = 0
    rejected: int = 0
    rejects: dict[str, int]
    """By code."""
    repairs: dict[str, int] = Field(default_factory=dict[str, int])
    num_media: int = 0
    """Uses of media by the examples."""
    num_unique_media: int = 0
    """Media of the items that the examples are about."""
    num_media_bytes: int = 0
    """Of all uses: what storing a medium with each example would take."""
    num_unique_media_bytes: int = 0
    reject_budget: float

    @property
    def over_budget(self) -> bool:
        """More rejects than the recipe tolerates."""
        return self.rejected > self.reject_budget * self.taken


class FeatureReject(StrictModel):
    """An item that could not be encoded under a spec."""

    key: str
    code: str
    message: str


class FeatureSet(StrictModel):
    """The cache of one spec."""

    ordinal: int
    """Of the corpus's caches in the order in which they were begun; the greatest is the latest."""
    spec: ObjectEntry
    encoder: str
    """The name by which the recipe called the encoder."""
    attention: ObjectEntry
    """Last layer's LN1, query and key weights, as safetensors."""
    shards: list[ShardEntry]
    num_items: int
    num_views: int
    num_fp16_bytes: int
    """What the same patches take as plain fp16."""
    file_format: int = 2
    """Of the feature files; a manifest that does not say it lists files of format 2."""
    num_thinned_clips: int = 0
    """Clips of more frames than `max_frames`, of which so many were spread over the clip."""
    num_damaged_clips: int = 0
    """Clips of which a few packets do not decode, kept with what does."""
    rejects: list[FeatureReject]


class Manifest(StrictModel):
    """Everything that a corpus holds at one moment."""

    format_version: Literal[2] = FORMAT_VERSION
    name: str
    ingest_digest: str
    """Digest of the parts of the recipe that decide examples and sample shards."""
    sources: list[SourceTotals]
    num_media: int
    """Media stored; one that is part of two items is stored twice."""
    num_media_bytes: int
    num_media_uses: int
    media_digest: str
    """The same for the same set of items with media, whatever is said about them."""
    examples: list[ObjectEntry]
    media: list[ObjectEntry]
    quarantine: list[ObjectEntry]
    plan: ShardPlan
    shards: list[ShardEntry] = Field(default_factory=list[ShardEntry])
    features: dict[str, FeatureSet] = Field(default_factory=dict[str, FeatureSet])
    """By short spec digest."""

    @property
    def latest_spec(self) -> str | None:
        """Short digest of the cache that was begun last."""
        return max(self.features, key=lambda digest: self.features[digest].ordinal, default=None)

    @property
    def digest(self) -> str:
        """Hex sha256 of the canonical JSON."""
        return sha256_hex(self.to_bytes())

    @property
    def path(self) -> str:
        """Where the manifest lies below the corpus."""
        return manifest_path(self.digest)

    def to_bytes(self) -> bytes:
        """The bytes that are stored: what the digest covers.

        Shard by shard: as one value of plain dicts, a manifest of half a million shards takes gigabytes.
        """
        return b"".join(_write_pieces(self))

    def list_objects(self) -> Iterator[ObjectEntry]:
        """Every object that the manifest lists."""
        yield from (*self.examples, *self.media, *self.quarantine)
        yield from (entry for shard in self.shards for entry in (shard.tar, shard.index))
        for features in self.features.values():
            yield from (features.spec, features.attention)
            yield from (entry for shard in features.shards for entry in (shard.tar, shard.index))


class Pointer(StrictModel):
    """`corpus.json`: the only thing that is ever replaced."""

    format_version: Literal[2] = FORMAT_VERSION
    manifest: str
    """Path of the manifest in force."""
    sha256: str


class CommitRecord(StrictModel):
    """A unit of work that is done: what it was made from, and the objects that it made.

    Created exclusively: of two workers that finish the same unit one wins, and the other must agree (sample
    shards) or yields (feature shards).
    """

    format_version: Literal[2] = FORMAT_VERSION
    unit: str
    fingerprint: str
    """Digest of all that decides the unit's bytes."""
    objects: list[ObjectEntry]
    counts: dict[str, int] = Field(default_factory=dict)
    rejects: list[FeatureReject] = Field(default_factory=list[FeatureReject])
    environment: dict[str, str] = Field(default_factory=dict)
    """Device class, library versions, batch size: told, not compared."""

    def to_bytes(self) -> bytes:
        """The bytes that are stored: canonical JSON, with the digest of all the rest as `sha256`."""
        values = self.model_dump(mode="json")
        return canonical_json(values | {"sha256": digest_of(values)})


class StoredCommitRecord(CommitRecord):
    """A commit record as it is read back. No manifest lists it, so it bears its own digest."""

    sha256: str | None = None
    """None in records of releases that did not write it."""

    def unseal(self) -> CommitRecord | None:
        """What was committed; None when the digest is another's."""
        values = self.model_dump(mode="json", exclude={"sha256"})
        is_sound = self.sha256 in (None, digest_of(values))
        return CommitRecord.model_validate(values) if is_sound else None


def _write_pieces(value: object) -> Iterator[bytes]:
    """The canonical JSON of a part of a manifest, an entry of a list at a time."""
    match value:
        case Manifest() | FeatureSet():
            yield from _write_object({name: getattr(value, name) for name in type(value).model_fields})
        case dict():
            yield from _write_object(cast("dict[str, object]", value))
        case list() | ShardPlan():
            for place, one in enumerate(cast("Sequence[object]", value)):
                yield b"," if place else b"["
                yield from _write_pieces(one)
            yield b"]" if value else b"[]"
        case StrictModel():
            yield canonical_json(value.model_dump(mode="json"))
        case _:
            yield canonical_json(value)


def _write_object(fields: dict[str, object]) -> Iterator[bytes]:
    for place, name in enumerate(sorted(fields)):
        yield b"," if place else b"{"
        yield canonical_json(name)
        yield b":"
        yield from _write_pieces(fields[name])
    yield b"}" if fields else b"{}"


def manifest_path(sha256: str) -> str:
    """Where the manifest of this digest lies below the corpus."""
    return f"manifests/{sha256}.json"


def commit_path(unit: str, fingerprint: str, attempt: int = 0) -> str:
    """Where a commit record of a unit lies; attempts after 0 succeed records whose objects were lost."""
    suffix = f"-{attempt}" if attempt else ""
    return f"commits/{unit}-{fingerprint[: 2 * SHORT]}{suffix}.json"


def lengths_unit(examples: str) -> str:
    """The unit that counts the tokens of this file of examples, whatever the tokenizer."""
    return f"lengths-{examples.rpartition('/')[2].rpartition('.')[0]}"


def digest_in_name(path: str) -> str:
    """What the name of an object tells of its sha256: the first digits, or all; or nothing."""
    found = _DIGEST_IN_NAME.fullmatch(path)
    return next(filter(None, found.groups())) if found else ""


def object_path(folder: str, name: str, sha256: str, extension: str) -> str:
    """Where an object lies below the corpus: named by what it holds."""
    return f"{folder}/{name}-{sha256[:SHORT]}.{extension}"
