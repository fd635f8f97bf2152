"""Recipes: what a corpus is made of, as a user writes it in YAML.

The recipe's digest covers what decides bytes of examples and sample shards: sources, selections, media that
nobody wants, number of views, shard limits. Encoder and codec are the feature spec's matter. What the recipe
is called, where files lie, which engine runs and how many rejects are tolerated are left out: they may differ
between machines while the corpus is the same.
"""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, model_validator

from schemas.configuration import StrictModel
from schemas.digest import digest_of
from schemas.fidelity import FidelityFloor
from schemas.reducer import ReducerConfig

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_SIZE = re.compile(r"(\d+)\s*(B|KiB|MiB|GiB)?")
_UNITS = {None: 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_TAKE = re.compile(r"all|(first|last|random):(\d+)(%?)")


def _parse_size(value: object) -> object:
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip())
        if not match:
            raise ValueError(f"{value!r} is no size; write 1000000, 64MiB or 1GiB")
        return int(match[1]) * _UNITS[match[2]]
    return value


def _check_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(f"{value!r} is no name; use a-z, 0-9, - and _, at most 63 characters")
    return value


def _check_take(value: str) -> str:
    if not _TAKE.fullmatch(value):
        raise ValueError(
            f"{value!r}: write all, first:N, last:N or random:N, N a count or a percentage like 10%"
        )
    return value


def _name_codec(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


Name = Annotated[str, AfterValidator(_check_name)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Format = Literal["llava", "video_chatgpt", "onevision", "llava_next", "sharegpt", "llava_yaml"]
Pattern = Annotated[str, Field(min_length=1)]
ByteSize = Annotated[int, BeforeValidator(_parse_size), Field(gt=0), PlainSerializer(lambda size: size)]


Count = Annotated[int, Field(ge=0)]


class SourceCounts(StrictModel):
    """What a source is known to hold, for `onetoken plan` before anything is read; decides nothing else."""

    examples: Count
    images: Count = 0
    """Pictures by use: of one that ten examples are about, ten."""
    unique_images: Count = 0
    image_bytes: Count = 120_000
    """Mean, encoded."""
    videos: Count = 0
    """Clips by use."""
    unique_videos: Count = 0
    video_bytes: Count = 8_000_000
    """Mean, encoded."""
    video_s: Annotated[float, Field(ge=0)] = 60.0
    """Mean length."""

    @model_validator(mode="after")
    def _unique_are_fewer(self) -> "SourceCounts":
        if self.unique_images > self.images or self.unique_videos > self.videos:
            raise ValueError("more unique media than uses of media")
        return self


class SourceConfig(StrictModel):
    """One annotation set and the folder that its media lie in."""

    name: Name
    format: Format
    """The layout of the rows; of `llava_yaml`, the annotations are LLaVA-Mini's lists of annotation files."""
    annotations: Pattern | Annotated[list[Pattern], Field(min_length=1)]
    """A path, a glob, or a list of them; globs are read in sorted order."""
    media_root: str | None = None
    """A folder, an S3 prefix, a tar or a zip; nothing outside it is ever opened."""
    also_under: tuple[Pattern, ...] = ()
    """Folders besides media_root that symbolic links may lead into."""
    take: Annotated[str, AfterValidator(_check_take)] = "all"
    deduplicate: bool = False
    """True: a record identical to an earlier one of this source, in media and conversation, is rejected as
    duplicate_record; ids are not compared."""
    reject_media: tuple[Sha256, ...] = ()
    """Media that are there and that nobody wants, such as the picture that a host sends for a dead link; a
    record about one of them is rejected as unwanted_medium. The tables of media tell which are used often."""
    reject_budget: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of records; over it the run ends with exit status 3."""
    counts: SourceCounts | None = None
    """What is known beforehand, for planning."""

    @model_validator(mode="after")
    def _one_selection(self) -> "SourceConfig":
        if self.format == "llava_yaml" and self.take != "all":
            raise ValueError(
                "a yaml list says by sampling_strategy how much of each file is taken; leave out `take`"
            )
        return self


class VideoViews(StrictModel):
    """Which frames of a clip become views."""

    fps: Annotated[float, Field(gt=0, le=60)] | None = 1.0
    uniform: Annotated[int, Field(gt=0, le=4096)] | None = None
    """A fixed number of frames spread over the clip; set `fps: null` with it."""
    max_frames: Annotated[int, Field(gt=0, le=100_000)] = 512
    """Where `fps` gives more, that many are spread over the clip, and it is counted."""
    rule: Literal["even", "reference"] = "even"
    """How `uniform` spreads: evenly over the time, or the middle frames of equal segments as published."""
    backend: Literal["pyav", "decord"] = "pyav"

    @model_validator(mode="after")
    def _one_policy(self) -> "VideoViews":
        if (self.fps is None) == (self.uniform is None):
            raise ValueError("give either fps or uniform (with fps: null), not both")
        if self.rule == "reference" and self.uniform is None:
            raise ValueError("rule: reference goes with uniform (the published loader takes 8 frames)")
        return self


class ViewsConfig(StrictModel):
    """How media become 336x336 views."""

    image: Literal["global", "hd4"] = "hd4"
    aspect: Literal["pad", "center", "squash", "published"] = "pad"
    preprocess: Literal["exact", "fast"] = "exact"
    """exact: bit-equal to the encoder's own processor; fast: at most one 8-bit level off it."""
    video: VideoViews = VideoViews()


class EncoderConfig(StrictModel):
    """The frozen vision tower."""

    model: str = "openai/clip-vit-large-patch14-336"
    """A CLIP or SigLIP model, by its name on the Hub or its folder; the weights' digest, not the name, enters
    the feature spec."""
    layer: Annotated[int, Field(le=-1)] = -2
    dtype: Literal["float32", "float16", "bfloat16"] = "bfloat16"
    batch_size: Annotated[int, Field(gt=0, le=4096)] = 32
    """Views per call, fixed; the last call of a shard is padded."""


class CodecConfig(StrictModel):
    """How features are stored; `codec: int8` is short for `codec: {name: int8}`."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,16}$")] = "int8"
    """fp16, int8, compact, or one that an installed package brings."""
    step: Annotated[float, Field(ge=0.01, le=1)] | None = None
    """Quality of `compact`: 0.1 is close to lossless, 0.2 small; the codec's default where it is left out."""


class ShardLimits(StrictModel):
    """When a leaf of the shard plan splits."""

    max_bytes: ByteSize = 256 * 2**20
    max_views: Annotated[int, Field(gt=0)] = 2048


class Recipe(StrictModel):
    """What a corpus is made of."""

    name: Name
    sources: Annotated[list[SourceConfig], Field(min_length=1)]
    views: ViewsConfig = ViewsConfig()
    encoder: EncoderConfig = EncoderConfig()
    codec: Annotated[CodecConfig, BeforeValidator(_name_codec)] = CodecConfig()
    reducer: ReducerConfig | None = None
    """Keep fewer tokens of a view than its patches (prumerge, average, ...), and those alone."""
    shards: ShardLimits = ShardLimits()
    audit: FidelityFloor | None = None
    """Where it is given, featurize ends with an audit, and fails where the features fall below."""

    @model_validator(mode="after")
    def _names_are_unique(self) -> "Recipe":
        names = [source.name for source in self.sources]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"source names must differ; twice: {', '.join(twice)}")
        return self

    @model_validator(mode="after")
    def _reducer_stands_alone(self) -> "Recipe":
        if self.reducer and (self.reducer.is_trained or self.reducer.name == "all"):
            raise ValueError(
                f"reducer: {self.reducer.name} is part of a model, not of a cache; name one without weights "
                "(average, sequential, spatial, tome, prumerge, prumerge_plus), or leave `reducer` out"
            )
        if self.reducer and self.audit:
            raise ValueError("an audit compares patches, and a reduced cache holds none; leave `audit` out")
        return self

    @property
    def ingest_digest(self) -> str:
        """Digest of what decides the bytes of examples and sample shards."""
        sources = [_decide_examples(source) for source in self.sources]
        planned = {
            "image": self.views.image,
            "video": self.views.video.model_dump(mode="json", exclude={"backend", "rule"}),
            "shards": self.shards.model_dump(mode="json"),
        }
        return digest_of({"sources": sources, "planned": planned})


def _decide_examples(source: SourceConfig) -> dict[str, object]:
    """What decides which records of a source become examples; a list that is empty is left out of it."""
    deciding: dict[str, object] = source.model_dump(include={"name", "format", "take", "deduplicate"})
    if source.reject_media:
        deciding["reject_media"] = sorted(set(source.reject_media))
    return deciding
