"""What the manifest tells of a corpus: totals that balance, caches, what grouping by medium saved."""

from dataclasses import dataclass

from infra.storage import Storage
from pipelines.commit import parse_stored, read_named, read_object
from schemas.corpus import FeatureSet, Manifest
from schemas.errors import CorruptError
from schemas.feature import FeatureSpec
from schemas.fidelity import AuditRecord


@dataclass(frozen=True, slots=True)
class Totals:
    """Of all sources together: read = written + rejected + not taken."""

    read: int
    written: int
    rejected: int
    not_taken: int


@dataclass(frozen=True, slots=True)
class Saved:
    """What storing each medium once saved, against storing it with every example about it."""

    num_uses: int
    num_media: int
    num_bytes_of_uses: int
    num_bytes: int

    @property
    def num_bytes_saved(self) -> int:
        """Not stored a second time."""
        return self.num_bytes_of_uses - self.num_bytes


@dataclass(frozen=True, slots=True)
class Cache:
    """The features of one spec."""

    spec: str
    features: FeatureSet
    num_bytes: int
    num_index_bytes: int
    audits: tuple[AuditRecord, ...]
    reducer: str | None = None
    """What left fewer tokens than patches."""
    percent_of_full: float | None = None
    """Size against the cache of the same spec without the reducer, where the corpus has one."""

    @property
    def percent_of_fp16(self) -> float | None:
        """Size of all that is stored, against plain fp16 patches."""
        whole = self.features.num_fp16_bytes
        return 100 * self.num_bytes / whole if whole else None


def sum_sources(manifest: Manifest) -> Totals:
    """Totals over all sources.

    Raises:
        CorruptError: when they do not balance, which no manifest that was published does.
    """
    totals = Totals(
        read=sum(source.read for source in manifest.sources),
        written=sum(source.written for source in manifest.sources),
        rejected=sum(source.rejected for source in manifest.sources),
        not_taken=sum(source.read - source.taken for source in manifest.sources),
    )
    if totals.read != totals.written + totals.rejected + totals.not_taken:
        raise CorruptError(
            f"manifest {manifest.digest[:16]}: {totals.read} records were read, and {totals.written} "
            f"written, {totals.rejected} rejected, {totals.not_taken} not taken; run `onetoken verify`"
        )
    return totals


def measure_saved(manifest: Manifest) -> Saved:
    """What grouping by medium saved."""
    return Saved(
        num_uses=manifest.num_media_uses,
        num_media=manifest.num_media,
        num_bytes_of_uses=sum(source.num_media_bytes for source in manifest.sources),
        num_bytes=manifest.num_media_bytes,
    )


def list_caches(storage: Storage, manifest: Manifest) -> list[Cache]:
    """The caches with their audits, the one that was begun last first.

    Raises:
        CorruptError: when an audit is not as it was written.
    """
    newest_first = sorted(manifest.features.items(), key=lambda pair: -pair[1].ordinal)
    sizes = {
        digest: sum(shard.tar.num_bytes for shard in features.shards) for digest, features in newest_first
    }
    caches: list[Cache] = []
    for digest, features in newest_first:
        spec = parse_stored(read_object(storage, features.spec), FeatureSpec, features.spec.path)
        full = sizes.get(spec.model_copy(update={"reducer": "none"}).short_digest)
        is_reduced = spec.reducer != "none"
        caches.append(
            Cache(
                digest,
                features,
                sizes[digest],
                sum(shard.index.num_bytes for shard in features.shards),
                _read_audits(storage, digest),
                reducer=spec.reducer.name if spec.reducer != "none" else None,
                percent_of_full=100 * sizes[digest] / full if full and is_reduced else None,
            )
        )
    return caches


def _read_audits(storage: Storage, spec: str) -> tuple[AuditRecord, ...]:
    paths = storage.list(f"features/{spec}/audits")
    return tuple(
        parse_stored(read_named(storage, path), AuditRecord, f"{storage.url}/{path}") for path in paths
    )
