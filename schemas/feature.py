"""The feature spec: everything that decides the bytes of a feature. Its digest is the cache's name.

What may only change the last bits (device class, torch version, batch size) stands in commit records.
"""

from math import inf
from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from schemas.configuration import StrictModel
from schemas.digest import SHORT, digest_of
from schemas.reducer import ReducerConfig

FEATURE_SPEC_VERSION: Final = 1


class ProcessorValues(StrictModel):
    """How pixels become encoder input: the numbers of a CLIP image processor."""

    size_px: int = 336
    resample: int = 3
    """Pillow's number of the filter; 3 is bicubic."""
    rescale_factor: float = 1 / 255
    center_crop: bool = True
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)


class EncoderIdentity(StrictModel):
    """The frozen tower, by what it computes and not by its name or where it lies."""

    weights_sha256: str
    """Over the sorted tensors of the layers that are used, and of the norm, query and key of the next one, by
    which reducers choose."""
    architecture: str
    """What the weights do not show: kind, heads, activation, epsilon."""
    layer: int
    num_patches: int
    width: int
    dtype: Literal["float32", "float16", "bfloat16"]
    class_row: Annotated[bool, Field(exclude_if=bool)] = True
    """Whether a view has a class row beside its patches. Written down where it has none (SigLIP): specs of
    towers with one say nothing of it, and keep their digests."""


class ChannelStatistics(StrictModel):
    """Of every channel, over a sample of the corpus; taken once and frozen. Four digits, read as fp32."""

    num_views: int
    median: tuple[float, ...]
    spread: tuple[float, ...]
    """Interquartile range."""

    @model_validator(mode="after")
    def _fit(self) -> "ChannelStatistics":
        if len(self.median) != len(self.spread) or not all(0 < spread < inf for spread in self.spread):
            raise ValueError("statistics need a median and a positive spread of every channel")
        return self


class CodecIdentity(StrictModel):
    """How a view is stored: all that a codec needs besides the bytes."""

    name: str
    version: int
    step: float | None = None
    """Of the quality knob, for codecs that have one."""
    library: str | None = None
    """What decides the last bit of what is written; not of what is read."""
    statistics: ChannelStatistics | None = None


class ImageRules(StrictModel):
    """How a picture becomes RGB, and who decodes it."""

    version: str
    """Names the rules that have no field: orientation, depth, colour, first frame."""
    max_pixels: int
    min_side_px: int
    max_aspect: int
    alpha_background: tuple[int, int, int]
    decoder: str


class VideoRules(StrictModel):
    """Which frames of a clip are views, and who decodes them."""

    fps: float | None
    uniform: int | None
    max_frames: int
    rule: Literal["even", "reference"]
    backend: Literal["pyav", "decord"]
    decoder: str


class FeatureSpec(StrictModel):
    """Everything that decides the bytes of a feature."""

    version: Literal[1] = FEATURE_SPEC_VERSION
    encoder: EncoderIdentity
    processor: ProcessorValues
    preprocess: Literal["exact", "fast"] = "exact"
    resizer: str
    """The library that resizes, and what of it decides the last bit."""
    image: ImageRules
    image_views: Literal["global", "hd4"]
    aspect: Literal["pad", "center", "squash", "published"]
    video: VideoRules
    reducer: Literal["none"] | ReducerConfig = "none"
    """What was made of the patches before they were stored."""
    codec: CodecIdentity

    def list_values(self) -> dict[str, object]:
        """Every value by its full name, `encoder.width`; statistics by what they are of and their digest."""
        values = _list_values(self, "")
        if self.reducer == "none":
            values["reducer.name"] = values.pop("reducer")
        return values

    def list_differences(self, wanted: "FeatureSpec", parts: tuple[str, ...] = ()) -> list[str]:
        """What differs from another spec, in words, field by field.

        Settings of a reducer count where both have one; where one has none, its name says so.

        Args:
            wanted: the other one.
            parts: fields of this model that count; empty: all.
        """
        here, there = self.list_values(), wanted.list_values()
        return [
            f"{name} is {_in_words(here[name])} here and {_in_words(there[name])} wanted"
            for name in sorted(here.keys() & there.keys())
            if here[name] != there[name] and (not parts or name.partition(".")[0] in parts)
        ]

    @property
    def digest(self) -> str:
        """Hex sha256 of the canonical JSON."""
        return digest_of(self.model_dump(mode="json"))

    @property
    def short_digest(self) -> str:
        """The name of the cache's folder."""
        return self.digest[:SHORT]


def _in_words(value: object) -> object:
    return "not set" if value is None else value


def _list_values(model: StrictModel, prefix: str) -> dict[str, object]:
    values: dict[str, object] = {}
    for name in type(model).model_fields:
        value: object = getattr(model, name)
        full_name = f"{prefix}{name}"
        if isinstance(value, ChannelStatistics):
            digest = digest_of(value.model_dump(mode="json"))[:SHORT]
            values[full_name] = f"those of {value.num_views} views ({digest})"
        elif isinstance(value, StrictModel):
            values |= _list_values(value, f"{full_name}.")
        else:
            values[full_name] = value
    return values
