"""The feature spec: asked of the encoder and the installed decoders, not of names."""

from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Final

import av
import PIL
import torch
from av import library_versions
from PIL import features

from operators.clip import VisionEncoder, load_encoder, read_processor
from operators.codec import identify_codec
from operators.fast_resize import describe_resizer
from operators.image import DEFAULT_IMAGE_POLICY
from operators.preprocess import Processor
from operators.render import Preprocess, RenderPolicy
from pipelines.decode.policy import rendering_of
from schemas.errors import ConfigError, MismatchError
from schemas.feature import (
    ChannelStatistics,
    CodecIdentity,
    EncoderIdentity,
    FeatureSpec,
    ImageRules,
    ProcessorValues,
    VideoRules,
)
from schemas.recipe import CodecConfig, EncoderConfig, VideoViews, ViewsConfig
from schemas.reducer import ReducerConfig

DTYPES: Final = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class OpenedEncoder:
    """An encoder and the values of its image processor."""

    encoder: VisionEncoder
    processor: Processor


def open_encoder(config: EncoderConfig) -> OpenedEncoder:
    """An encoder, on the CPU.

    Raises:
        NotFoundError: no such folder or name.
        ConfigError: a model of another kind, or no such layer.
    """
    encoder = load_encoder(config.model, layer=config.layer, dtype=DTYPES[config.dtype])
    return OpenedEncoder(encoder, read_processor(config.model, encoder))


def render_policy(views: ViewsConfig, opened: OpenedEncoder) -> RenderPolicy:
    """What decides the pixels of views."""
    return rendering_of(views, opened.processor)


def describe_codec(config: CodecConfig, statistics: ChannelStatistics | None = None) -> CodecIdentity:
    """How views would be stored, on this machine.

    Raises:
        ConfigError: when there is no such codec, or it has no quality step.
    """
    try:
        return identify_codec(config.name, config.step, statistics)
    except MismatchError as error:
        raise ConfigError(f"codec: {error}") from error


def describe_spec(
    views: ViewsConfig,
    config: EncoderConfig,
    codec: CodecConfig,
    opened: OpenedEncoder,
    statistics: ChannelStatistics | None = None,
    reducer: ReducerConfig | None = None,
) -> FeatureSpec:
    """Everything that decides the bytes of a feature, on this machine; statistics for codecs that need them.

    Raises:
        ConfigError: when there is no such codec, or it has no quality step.
    """
    encoder, video = opened.encoder, views.video
    return FeatureSpec(
        encoder=EncoderIdentity(
            weights_sha256=encoder.compute_weights_digest(),
            architecture=encoder.architecture,
            layer=config.layer,
            num_patches=encoder.num_patches,
            width=encoder.width,
            dtype=config.dtype,
            class_row=encoder.has_class_row,
        ),
        processor=ProcessorValues.model_validate(asdict(opened.processor)),
        image=ImageRules.model_validate(asdict(DEFAULT_IMAGE_POLICY) | {"decoder": _describe_pillow()}),
        preprocess=views.preprocess,
        resizer=_describe_resizer(views.preprocess),
        image_views=views.image,
        aspect=views.aspect,
        video=VideoRules(
            fps=video.fps,
            uniform=video.uniform,
            max_frames=video.max_frames,
            rule=video.rule,
            backend=video.backend,
            decoder=_describe_backend(video.backend),
        ),
        reducer=reducer or "none",
        codec=describe_codec(codec, statistics),
    )


def settings_of(spec: FeatureSpec, model: str) -> tuple[ViewsConfig, EncoderConfig]:
    """The settings that a spec was made with, for an encoder that lies at `model`."""
    video = VideoViews(
        fps=spec.video.fps,
        uniform=spec.video.uniform,
        max_frames=spec.video.max_frames,
        rule=spec.video.rule,
        backend=spec.video.backend,
    )
    views = ViewsConfig(image=spec.image_views, aspect=spec.aspect, preprocess=spec.preprocess, video=video)
    return views, EncoderConfig(model=model, layer=spec.encoder.layer, dtype=spec.encoder.dtype)


def codec_config(spec: FeatureSpec) -> CodecConfig:
    """The setting of the codec that a spec was made with."""
    return CodecConfig(name=spec.codec.name, step=spec.codec.step)


def reducer_config(spec: FeatureSpec) -> ReducerConfig | None:
    """The reducer that a spec was made with."""
    return None if spec.reducer == "none" else spec.reducer


def check_same_spec(found: FeatureSpec, expected: FeatureSpec) -> None:
    """Refuse to make features under another spec than the driver's.

    Raises:
        MismatchError: naming what differs.
    """
    different = found.list_differences(expected)
    if different:
        raise MismatchError(
            f"this machine would make other features than those wanted: {'; '.join(different)}; "
            "install the same versions and weights on both"
        )


def _describe_pillow() -> str:
    jpeg = features.version("libjpeg_turbo") or features.version("jpg") or "none"
    return f"pillow {PIL.__version__}, libjpeg {jpeg}"


def _describe_resizer(preprocess: Preprocess) -> str:
    return describe_resizer() if preprocess == "fast" else f"pillow {PIL.__version__}"


def _describe_backend(backend: str) -> str:
    codecs = ".".join(str(part) for part in library_versions["libavcodec"])
    described = f"av {av.__version__}, libavcodec {codecs}"
    return f"decord {version('decord')}, {described}" if backend == "decord" else described
