"""A feature spec for tests that need one of a certain shape and nothing more."""

from schemas.feature import (
    CodecIdentity,
    EncoderIdentity,
    FeatureSpec,
    ImageRules,
    ProcessorValues,
    VideoRules,
)


def tiny_spec(num_patches: int, width: int) -> FeatureSpec:
    return FeatureSpec(
        encoder=EncoderIdentity(
            weights_sha256="0" * 64,
            architecture="tiny",
            layer=-2,
            num_patches=num_patches,
            width=width,
            dtype="float32",
        ),
        processor=ProcessorValues(),
        image=ImageRules(
            version="tiny",
            max_pixels=1,
            min_side_px=1,
            max_aspect=1,
            alpha_background=(0, 0, 0),
            decoder="none",
        ),
        resizer="none",
        image_views="hd4",
        aspect="pad",
        video=VideoRules(fps=1.0, uniform=None, max_frames=512, rule="even", backend="pyav", decoder="none"),
        codec=CodecIdentity(name="fp16", version=1),
    )
