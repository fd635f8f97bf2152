"""The feature spec of a recipe: asked from the encoder and the installed decoders, not from names."""

from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Final

import av
import PIL
import torch
from av import library_versions
from PIL import features

from operators.clip import VisionEncoder, load_encoder, read_processor
from operators.codec import codec_named
from operators.frames import FramePolicy
from operators.image import DEFAULT_IMAGE_POLICY
from operators.preprocess import Processor
from pipelines.featurize.render import RenderPolicy
from schemas.errors import ConfigError, MismatchError
from schemas.feature import (
    CodecIdentity,
    EncoderIdentity,
    FeatureSpec,
    ImageRules,
    ProcessorValues,
    VideoRules,
)
from schemas.recipe import Recipe

DTYPES: Final = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class OpenedEncoder:
    """A recipe's encoder and the values of its image processor."""

    encoder: VisionEncoder
    processor: Processor


def open_encoder(recipe: Recipe) -> OpenedEncoder:
    """The recipe's encoder, on the CPU.

    Raises:
        NotFoundError: no such folder or name.
        ConfigError: when it has no class token, which every cache keeps.
    """
    config = recipe.encoder
    encoder = load_encoder(config.model, layer=config.layer, dtype=DTYPES[config.dtype])
    if not encoder.has_class_row:
        raise ConfigError(f"encoder {config.model!r} has no class token; use a CLIP tower")
    return OpenedEncoder(encoder, read_processor(config.model, encoder))


def render_policy(recipe: Recipe, opened: OpenedEncoder) -> RenderPolicy:
    """What decides the pixels of views under a recipe."""
    video = recipe.views.video
    return RenderPolicy(
        layout=recipe.views.image,
        aspect=recipe.views.aspect,
        processor=opened.processor,
        image=DEFAULT_IMAGE_POLICY,
        frames=FramePolicy(fps=video.fps, uniform=video.uniform, max_frames=video.max_frames),
        backend=video.backend,
    )


def describe_spec(recipe: Recipe, opened: OpenedEncoder) -> FeatureSpec:
    """Everything that decides the bytes of a feature under a recipe, on this machine."""
    codec = codec_named(recipe.codec)
    encoder, video = opened.encoder, recipe.views.video
    return FeatureSpec(
        encoder=EncoderIdentity(
            weights_sha256=encoder.compute_weights_digest(),
            architecture=encoder.architecture,
            layer=recipe.encoder.layer,
            num_patches=encoder.num_patches,
            width=encoder.width,
            dtype=recipe.encoder.dtype,
        ),
        processor=ProcessorValues.model_validate(asdict(opened.processor)),
        image=ImageRules.model_validate(asdict(DEFAULT_IMAGE_POLICY) | {"decoder": _describe_pillow()}),
        image_views=recipe.views.image,
        aspect=recipe.views.aspect,
        video=VideoRules(
            fps=video.fps,
            uniform=video.uniform,
            max_frames=video.max_frames,
            backend=video.backend,
            decoder=_describe_backend(video.backend),
        ),
        codec=CodecIdentity(name=codec.name, version=codec.version),
    )


def check_same_spec(found: FeatureSpec, expected: FeatureSpec) -> None:
    """Refuse to make features under another spec than the driver's.

    Raises:
        MismatchError: naming what differs.
    """
    theirs, ours = expected.model_dump(), found.model_dump()
    different = [
        f"{name} is {ours[name]} here and {theirs[name]} there"
        for name in theirs
        if theirs[name] != ours[name]
    ]
    if different:
        raise MismatchError(
            f"this machine would make other features than the driver: {'; '.join(different)}; "
            "install the same versions and weights on both"
        )


def _describe_pillow() -> str:
    jpeg = features.version("libjpeg_turbo") or features.version("jpg") or "none"
    return f"pillow {PIL.__version__}, libjpeg {jpeg}"


def _describe_backend(backend: str) -> str:
    codecs = ".".join(str(part) for part in library_versions["libavcodec"])
    described = f"av {av.__version__}, libavcodec {codecs}"
    return f"decord {version('decord')}, {described}" if backend == "decord" else described
