"""What a codec must know of the corpus: median and spread of every channel, taken once and frozen.

They are taken from the 2,048 views of lowest hash (of the medium's digest and the view's place), so from a
random sample that does not depend on names, shards or order; a smaller corpus gives all of its views. Of each
view every ninth token counts, 64 of 576: neighbours say much the same. The first to finish commits a spec
with them, and whoever comes later (after a crash, with more media) goes on with that one, so features made
in one corpus under one recipe stay of one kind.

Costs one encoding of those views more, which is little beside a large corpus and as much again for a tiny
one, by one worker; 270 MB of tokens are held at width 1024.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from infra.storage import Storage
from operators.codec import find_kind
from operators.codec.robust import measure_channels
from pipelines.commit import FIRST_WINS, commit, find_commit, parse_stored, read_object
from pipelines.engine import Engine, Progress, run_in_order
from pipelines.featurize.resources import state_resources
from pipelines.featurize.reuse import find_spec, read_spec, without_statistics
from pipelines.featurize.samples import read_sample_items
from pipelines.featurize.single import MediumEncoder
from pipelines.featurize.spec import OpenedEncoder, describe_spec
from pipelines.ingest.plan import count_views
from pipelines.shard.items import ItemTables
from pipelines.shard.tables import tables_of
from schemas.corpus import CommitRecord, Manifest, ObjectEntry, ShardEntry
from schemas.digest import canonical_json, digest_of, sha256_hex
from schemas.errors import MismatchError, SampleError, WorkError
from schemas.feature import ChannelStatistics, FeatureSpec
from schemas.recipe import Recipe, ViewsConfig
from schemas.record import MediumKind, Modality

NUM_VIEWS: Final = 2048
TOKEN_STRIDE: Final = 9
UNIT: Final = "spec"
_CHANNELS_AT_ONCE: Final = 64


@dataclass(frozen=True, slots=True, order=True)
class ChosenView:
    """A view that statistics are taken from."""

    hash: bytes
    leaf: int
    """Place in the plan."""
    key: str
    medium: int
    view: int


@dataclass(frozen=True, slots=True)
class StatisticsUnit:
    """All of them: shards, and of each the views as (item, medium, view)."""

    shards: tuple[tuple[ShardEntry, tuple[tuple[str, int, int], ...]], ...]


def settle_spec(
    recipe: Recipe,
    storage: Storage,
    engine: Engine,
    progress: Progress,
    manifest: Manifest,
    opened: OpenedEncoder,
    reuse: Storage | None = None,
) -> FeatureSpec:
    """The spec of a recipe in a corpus, with the statistics that its codec needs.

    Statistics of a corpus whose features shall be reused are taken over.

    Raises:
        ConfigError: when there is no such codec, or it has no quality step.
        MismatchError: when `reuse` holds no features of this spec.
        WorkError: when no view of the corpus can be encoded.
    """
    plain = describe_spec(recipe.views, recipe.encoder, recipe.codec, opened, reducer=recipe.reducer)
    wanted = find_spec(reuse, plain) if reuse else None
    if not find_kind(plain.codec.name).needs_statistics:
        return plain
    settled = _find_settled(storage, manifest, plain)
    if settled and wanted and settled != wanted:
        differences = "; ".join(settled.list_differences(wanted))
        raise MismatchError(
            f"{storage.url} has statistics of its own, features cannot be reused: {differences}"
        )
    if settled:
        return settled
    if wanted:
        entry = put_spec(storage, wanted)
    else:
        unit = _plan_unit(manifest, choose_views(storage, manifest, recipe.views))
        worker = StatisticsWorker(storage, recipe, plain)
        resources = state_resources(engine, opened.encoder, num_decoders=1)
        (statistics,) = run_in_order(engine, worker, [unit], "statistics", progress, resources)
        codec = plain.codec.model_copy(update={"statistics": statistics})
        entry = put_spec(storage, plain.model_copy(update={"codec": codec}))
    record = CommitRecord(unit=UNIT, fingerprint=_fingerprint(plain), objects=[entry])
    return _parse_spec(storage, commit(storage, record, when_beaten=FIRST_WINS).objects[0])


def _find_settled(storage: Storage, manifest: Manifest, plain: FeatureSpec) -> FeatureSpec | None:
    """The spec that this corpus went on with before."""
    for features in manifest.features.values():
        settled = read_spec(storage, features)
        if without_statistics(settled) == plain:
            return settled
    record = find_commit(storage, UNIT, _fingerprint(plain))
    return _parse_spec(storage, record.objects[0]) if record else None


def _fingerprint(plain: FeatureSpec) -> str:
    return digest_of(["feature-spec", plain.digest])


def put_spec(storage: Storage, spec: FeatureSpec) -> ObjectEntry:
    """Store a spec under the name of its cache."""
    data = canonical_json(spec.model_dump(mode="json"))
    path = f"features/{spec.short_digest}/spec.json"
    storage.put(path, BytesIO(data))
    return ObjectEntry(path=path, sha256=sha256_hex(data), num_bytes=len(data), num_rows=1)


def choose_views(
    storage: Storage, manifest: Manifest, views: ViewsConfig, most: int = NUM_VIEWS
) -> list[ChosenView]:
    """The views of lowest hash, by item; a medium that is part of two items counts once."""
    lowest = keep_lowest(_list_views(storage, manifest, views), most)
    return sorted(lowest, key=lambda one: (one.leaf, one.key, one.medium, one.view))


def keep_lowest(views: Iterable[ChosenView], most: int) -> list[ChosenView]:
    """So many views of different hashes, the lowest, each where it stands first; holds twice as many."""
    kept: dict[bytes, ChosenView] = {}
    bound: bytes | None = None
    for one in views:
        if bound is not None and one.hash > bound:
            continue
        kept[one.hash] = min(one, kept.get(one.hash, one))
        if len(kept) > 2 * most:
            kept = dict(sorted(kept.items())[:most])
            bound = max(kept)
    return [one for _, one in sorted(kept.items())[:most]]


def measure_statistics(tokens: Float[Tensor, "tokens width"], num_views: int) -> ChannelStatistics:
    """Median and spread of channels, rounded to the four digits that are stored."""
    median: list[float] = []
    spread: list[float] = []
    for start in range(0, tokens.shape[1], _CHANNELS_AT_ONCE):
        part = measure_channels(tokens[None, :, start : start + _CHANNELS_AT_ONCE].float())
        median += [float(value) for value in part[0][0]]
        spread += [float(value) for value in part[1][0]]
    return ChannelStatistics(
        num_views=num_views,
        median=tuple(float(f"{value:.4g}") for value in median),
        spread=tuple(float(f"{value:.4g}") for value in spread),
    )


@dataclass(frozen=True, slots=True)
class StatisticsWorker:
    """Takes statistics inside a worker."""

    storage: Storage
    recipe: Recipe
    spec: FeatureSpec

    def build(self) -> Callable[[StatisticsUnit], ChannelStatistics]:
        """See `Worker.build`; statistics are those of patches, whatever becomes of them."""
        spec = self.spec.model_copy(update={"reducer": "none"})
        encoder = MediumEncoder(spec, self.recipe.encoder.model, self.recipe.encoder.batch_size)

        def take(unit: StatisticsUnit) -> ChannelStatistics:
            tokens = [rows[:, ::TOKEN_STRIDE].half() for rows in _encode(self.storage, unit, encoder)]
            if not tokens:
                raise WorkError("no view of the corpus can be encoded: statistics cannot be taken")
            views = torch.cat(tokens)
            return measure_statistics(views.flatten(0, 1), len(views))

        return take


def _encode(
    storage: Storage, unit: StatisticsUnit, encoder: MediumEncoder
) -> Iterator[Float[Tensor, "views patches width"]]:
    """Features of the chosen views; those of media that do not decode are left out."""
    for shard, chosen in unit.shards:
        views_of: defaultdict[tuple[str, int], list[int]] = defaultdict(list)
        for key, medium, view in chosen:
            views_of[key, medium].append(view)
        for stored, data in read_sample_items(storage, shard, {key for key, _, _ in chosen}):
            for position, medium in enumerate(stored.media):
                wanted = views_of.get((stored.key, position), [])
                try:
                    rendered = encoder.render(data[position], MediumKind(medium.kind)) if wanted else None
                except SampleError:
                    continue
                if rendered is not None:
                    there = np.array([view for view in wanted if view < len(rendered.views)], np.int64)
                    yield encoder.compute_patches(rendered.views[there])


def _list_views(storage: Storage, manifest: Manifest, views: ViewsConfig) -> Iterator[ChosenView]:
    tables = ItemTables(storage, tables_of(manifest))
    for place in manifest.plan.find_places(without=Modality.TEXT):
        for item in tables.read_items(manifest.plan[place]):
            for medium in item.media:
                digest = bytes.fromhex(medium.facts.sha256)
                for view in range(count_views(medium.facts.kind, medium.facts.duration_s, views)):
                    hashed = hashlib.sha256(digest + view.to_bytes(4, "little")).digest()
                    yield ChosenView(hashed, place, item.key, medium.position, view)


def _plan_unit(manifest: Manifest, chosen: Sequence[ChosenView]) -> StatisticsUnit:
    by_leaf: defaultdict[int, list[tuple[str, int, int]]] = defaultdict(list)
    for one in chosen:
        by_leaf[one.leaf].append((one.key, one.medium, one.view))
    return StatisticsUnit(tuple((manifest.shards[place], tuple(views)) for place, views in by_leaf.items()))


def _parse_spec(storage: Storage, entry: ObjectEntry) -> FeatureSpec:
    return parse_stored(read_object(storage, entry), FeatureSpec, f"{storage.url}/{entry.path}")
