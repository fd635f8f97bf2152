"""How much a corpus holds or will hold: from an ingested corpus exactly, from a recipe's `counts` otherwise.

Uses count media by example, unique ones once: their ratio is what storing each medium once saves. Of an
ingested corpus views are those of its shard plan; uses of pictures and clips are told apart by their share of
the unique media, since sources count both together.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from pipelines.ingest.plan import count_views
from schemas.corpus import Manifest
from schemas.errors import ConfigError
from schemas.recipe import Recipe, ShardLimits, SourceConfig
from schemas.record import MediumKind, Modality


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaCounts:
    """Pictures, or clips."""

    uses: int = 0
    unique: int = 0
    num_bytes: int = 0
    """Of the unique ones."""
    views: int = 0
    """Of the unique ones."""

    @property
    def naive_views(self) -> int:
        """Views that are encoded where each example's media are encoded for it."""
        return round(self.views * self.uses / self.unique) if self.unique else 0

    @property
    def views_per_use(self) -> float:
        """Views of one medium, on average."""
        return self.views / self.unique if self.unique else 0.0

    def __add__(self, other: "MediaCounts") -> "MediaCounts":
        return MediaCounts(
            uses=self.uses + other.uses,
            unique=self.unique + other.unique,
            num_bytes=self.num_bytes + other.num_bytes,
            views=self.views + other.views,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusCounts:
    """Everything that a plan starts from."""

    examples: int
    images: MediaCounts
    videos: MediaCounts
    shards: int
    is_exact: bool
    """From an ingested corpus."""
    uncounted: tuple[str, ...] = ()
    """Sources that nobody states counts of; nothing here includes them."""

    @property
    def items(self) -> int:
        """Unique media."""
        return self.images.unique + self.videos.unique

    @property
    def views(self) -> int:
        """That are encoded."""
        return self.images.views + self.videos.views

    @property
    def naive_views(self) -> int:
        """That would be, example by example."""
        return self.images.naive_views + self.videos.naive_views

    @property
    def media_bytes(self) -> int:
        """Of the unique media."""
        return self.images.num_bytes + self.videos.num_bytes


def count_recipe(recipe: Recipe) -> CorpusCounts:
    """From the `counts` of a recipe's sources; media of two sources count as different ones.

    Sources without counts are named and left out.

    Raises:
        ConfigError: no source has counts.
    """
    uncounted = tuple(source.name for source in recipe.sources if source.counts is None)
    if len(uncounted) == len(recipe.sources):
        raise ConfigError(
            f"no source of {recipe.name} has counts: write `counts:` below its sources, or ingest and name "
            "the corpus with --corpus"
        )
    images = sum((_count_images(recipe, source) for source in recipe.sources), start=MediaCounts())
    videos = sum((_count_videos(recipe, source) for source in recipe.sources), start=MediaCounts())
    return CorpusCounts(
        examples=sum(source.counts.examples for source in recipe.sources if source.counts),
        images=images,
        videos=videos,
        shards=estimate_leaves(images, recipe.shards) + estimate_leaves(videos, recipe.shards),
        is_exact=False,
        uncounted=uncounted,
    )


def count_manifest(manifest: Manifest) -> CorpusCounts:
    """From an ingested corpus."""
    uses = sum(source.num_media for source in manifest.sources)
    unique = sum(source.num_unique_media for source in manifest.sources)
    reuse = uses / unique if unique else 1.0
    videos = _sum_leaves(manifest, lambda modality: modality is Modality.VIDEO, reuse)
    images = _sum_leaves(manifest, lambda modality: modality in (Modality.IMAGE, Modality.MULTI), reuse)
    return CorpusCounts(
        examples=sum(source.written for source in manifest.sources),
        images=images,
        videos=videos,
        shards=len(manifest.plan),
        is_exact=True,
    )


def estimate_leaves(media: MediaCounts, limits: ShardLimits) -> int:
    """Leaves of a tree over random keys: it splits level by level until a leaf's share fits."""
    if not media.unique:
        return 0
    fullest = max(media.num_bytes / limits.max_bytes, media.views / limits.max_views, 1.0)
    return min(2 ** math.ceil(math.log2(fullest)), media.unique)


def _count_images(recipe: Recipe, source: SourceConfig) -> MediaCounts:
    counts = source.counts
    if counts is None:
        return MediaCounts()
    return MediaCounts(
        uses=counts.images,
        unique=counts.unique_images,
        num_bytes=counts.unique_images * counts.image_bytes,
        views=counts.unique_images * count_views(MediumKind.IMAGE, 0.0, recipe.views),
    )


def _count_videos(recipe: Recipe, source: SourceConfig) -> MediaCounts:
    counts = source.counts
    if counts is None:
        return MediaCounts()
    return MediaCounts(
        uses=counts.videos,
        unique=counts.unique_videos,
        num_bytes=counts.unique_videos * counts.video_bytes,
        views=counts.unique_videos * count_views(MediumKind.VIDEO, counts.video_s, recipe.views),
    )


def _sum_leaves(manifest: Manifest, wanted: Callable[[Modality], bool], reuse: float) -> MediaCounts:
    leaves = [leaf for leaf in manifest.plan if wanted(leaf.modality)]
    unique = sum(leaf.num_items for leaf in leaves)
    return MediaCounts(
        uses=round(unique * reuse),
        unique=unique,
        num_bytes=sum(leaf.num_media_bytes for leaf in leaves),
        views=sum(leaf.num_views for leaf in leaves),
    )
