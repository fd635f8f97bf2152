"""What a worker of featurize is given: a leaf, its sample shard, and what to leave out.

Units are computed from the manifest one at a time, and their fingerprints by the workers, so that planning
costs the driver nothing per item.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, overload

from pipelines.shard.fingerprints import fingerprint_media
from pipelines.shard.tables import LeafReader
from schemas.corpus import Manifest, ShardEntry
from schemas.digest import digest_of
from schemas.feature import FeatureSpec
from schemas.plan import Leaf
from schemas.record import Modality

FEATURE_FORMAT: Final = 2
"""Version of what a feature shard holds; part of every fingerprint."""


@dataclass(frozen=True, slots=True)
class FeatureUnit:
    """A leaf to be encoded from its sample shard."""

    leaf: Leaf
    shard: ShardEntry
    only_key: str | None = None
    """The one item to try, without writing anything: a part of a unit whose workers died."""
    killers: tuple[str, ...] = ()
    """Items to reject unseen."""

    @property
    def name(self) -> str:
        """The name of a leaf among commits."""
        return f"features-{self.leaf.name}"


class FeatureUnits(Sequence[FeatureUnit]):
    """The leaves with media and their sample shards; each unit is made when it is asked for."""

    def __init__(self, manifest: Manifest) -> None:
        self._plan = manifest.plan
        self._shards = manifest.shards
        self._places = manifest.plan.find_places(without=Modality.TEXT)

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> FeatureUnit: ...
    @overload
    def __getitem__(self, index: slice) -> list[FeatureUnit]: ...
    def __getitem__(self, index: int | slice) -> FeatureUnit | list[FeatureUnit]:
        if isinstance(index, slice):
            return [self[place] for place in range(len(self))[index]]
        place = self._places[index]
        return FeatureUnit(self._plan[place], self._shards[place])


def fingerprint_features(reader: LeafReader, leaf: Leaf, spec: FeatureSpec) -> str:
    """Digest of all that decides the bytes of a feature shard."""
    return digest_of(["feature-shard", FEATURE_FORMAT, spec.digest, fingerprint_media(reader, leaf)])
