"""Whose latency is measured: a checkpoint, what a configuration would train, or a named pair of shapes.

A checkpoint answers with its own encoder, codec and weights. The others have random weights of the true
sizes, drawn on the device itself: time depends on shapes, not on values. `eighth` is Vicuna-7B and CLIP-L
with every width and the vocabulary divided by eight. Tokens, layers and the FLOPs of all matrices stay in the
true proportion to each other; products of attention, which shrink by eight and not by sixty-four, weigh more.
"""

from dataclasses import dataclass, replace
from typing import Any, Final, cast

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
)

from operators.clip import VisionEncoder
from operators.codec import Codec, identify_codec, open_codec
from operators.costs.shapes import CLIP_L_336, LANGUAGE_SHAPES, VICUNA_7B, LanguageShape, VisionShape
from operators.reducers.medium import MediumReducer
from pipelines.featurize.reduced import make_reducer
from pipelines.featurize.spec import open_encoder, settings_of
from pipelines.train.assembly import restore
from pipelines.train.checkpoint import Checkpoint
from pipelines.train.known_llms import find_llm_config
from pipelines.train.model import OneTokenModel, build_model
from pipelines.train.precision import cast_weights
from pipelines.train.shape import ModelShape, Stage, shape_of
from schemas.errors import ConfigError
from schemas.reducer import ReducerConfig
from schemas.training import TrainConfig

PATCH_PX: Final = 14
HEAD_WIDTH: Final = 64
"""Of CLIP's attention."""
HD_VIEWS: Final = 5
EIGHTH: Final = 8
ALL_PATCHES: Final = ReducerConfig(name="all")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapePair:
    """A language model and the tower before it, by their sizes."""

    llm: LanguageShape
    tower: VisionShape


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Everything that the three ways need, on one device."""

    encoder: VisionEncoder
    model: OneTokenModel
    """As it was or would be trained."""
    plain: OneTokenModel
    """The same language model behind a projector alone, as LLaVA-1.5 has it."""
    reducer: MediumReducer | None
    """What works before the model: PruMerge and its kin."""
    codec: Codec
    codec_name: str
    pixels: Float[Tensor, "views 3 size size"]
    payloads: tuple[bytes, ...]
    """The same views as the cache holds them."""
    class_rows: Float[Tensor, "views width"] | None
    """None of an encoder without a class token."""
    text_tokens: int
    dtype: torch.dtype

    @property
    def device(self) -> torch.device:
        """Where all of it stands."""
        return self.pixels.device

    @property
    def num_views(self) -> int:
        """Of the one picture."""
        return self.pixels.shape[0]

    def list_facts(self) -> dict[str, int | str]:
        """The shapes, for whoever reads the figures."""
        llm = cast(Any, self.model.llm.config)
        return {
            "llm_layers": int(llm.num_hidden_layers),
            "llm_width": int(llm.hidden_size),
            "vocabulary": self.model.token_embeddings.num_embeddings,
            "encoder_layers": len(self.encoder.layers),
            "encoder_width": self.encoder.width,
            "patches": self.encoder.num_patches,
            "views": self.num_views,
            "reducer": self.model.shape.reducer.name,
            "prefusion_layers": 0 if self.model.prefusion is None else self.model.shape.num_prefusion_layers,
            "text_tokens": self.text_tokens,
            "codec": self.codec_name,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": describe_device(self.device),
        }


def find_pair(name: str) -> ShapePair:
    """Shapes by name.

    Raises:
        ConfigError: there are none of this name.
    """
    if name == "eighth":
        return ShapePair(llm=_divide_llm(VICUNA_7B), tower=_divide_tower(CLIP_L_336))
    if name in LANGUAGE_SHAPES:
        return ShapePair(llm=LANGUAGE_SHAPES[name], tower=CLIP_L_336)
    raise ConfigError(
        f"no checkpoint, configuration or shape {name!r}; the shapes are eighth, {', '.join(LANGUAGE_SHAPES)}"
    )


def draw_subject(pair: ShapePair, text_tokens: int, num_views: int, device: torch.device) -> Subject:
    """LLaVA-Mini of these shapes, its weights drawn."""
    config = _make_llm_config(pair.llm)
    shape = ModelShape(encoder_width=pair.tower.width, num_compressor_heads=pair.tower.width // HEAD_WIDTH)
    return _draw(config, pair.tower, shape, 2, text_tokens, num_views, device)


def draw_configured(config: TrainConfig, text_tokens: int, device: torch.device) -> Subject:
    """What a training configuration names, behind CLIP-L; weights are drawn, and none is read.

    Raises:
        ConfigError: the language model is not known, or the views do not fit.
    """
    shape = shape_of(config, CLIP_L_336.width)
    num_views = HD_VIEWS if config.data.views == "all" else 1
    llm = find_llm_config(config.model.llm)
    return _draw(llm, CLIP_L_336, shape, config.stage, text_tokens, num_views, device)


def open_subject(checkpoint: Checkpoint, text_tokens: int, device: torch.device) -> Subject:
    """A checkpoint with its encoder and codec.

    Raises:
        ConfigError: its features were reduced before they were stored: nothing compares with all patches.
        NotFoundError: the encoder is not where it was.
    """
    spec = checkpoint.state.identity.spec
    if spec.reducer != "none":
        raise ConfigError(f"{checkpoint.folder} reads a reduced cache; name a checkpoint that reads patches")
    config = checkpoint.config
    dtype = _choose_dtype(device)
    encoder = open_encoder(settings_of(spec, checkpoint.state.identity.encoder)[1]).encoder
    model = restore(checkpoint, to_train=False).model
    is_hd = config.data.views == "all" and spec.image_views == "hd4"
    return _put_together(
        encoder.to(device, dtype),
        model.to(device),
        open_codec(spec.codec),
        spec.codec.name,
        text_tokens,
        HD_VIEWS if is_hd else 1,
        dtype,
    )


def describe_device(device: torch.device) -> str:
    """In words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


def _choose_dtype(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def _divide_llm(shape: LanguageShape) -> LanguageShape:
    return replace(
        shape,
        name="eighth",
        width=shape.width // EIGHTH,
        inner_width=shape.inner_width // EIGHTH,
        heads=shape.heads // EIGHTH,
        key_value_heads=shape.key_value_heads // EIGHTH,
        vocabulary=shape.vocabulary // EIGHTH,
    )


def _divide_tower(shape: VisionShape) -> VisionShape:
    return replace(shape, width=shape.width // EIGHTH, inner_width=shape.inner_width // EIGHTH)


def _make_llm_config(shape: LanguageShape) -> PretrainedConfig:
    return cast(Any, LlamaConfig)(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.inner_width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        max_position_embeddings=shape.context,
    )


def _make_encoder(shape: VisionShape) -> VisionEncoder:
    config = CLIPVisionConfig(
        hidden_size=shape.width,
        intermediate_size=shape.inner_width,
        num_hidden_layers=shape.layers,
        num_attention_heads=max(1, shape.width // HEAD_WIDTH),
        image_size=PATCH_PX * round(shape.patches**0.5),
        patch_size=PATCH_PX,
    )
    return VisionEncoder(cast(Any, CLIPVisionModel(config)))


def _draw(
    llm_config: PretrainedConfig,
    tower: VisionShape,
    shape: ModelShape,
    stage: Stage,
    text_tokens: int,
    num_views: int,
    device: torch.device,
) -> Subject:
    dtype = _choose_dtype(device)
    with torch.random.fork_rng(devices=[]), device:  # pyright: ignore[reportUnknownMemberType]
        llm = cast(PreTrainedModel, cast(Any, AutoModelForCausalLM).from_config(llm_config, dtype=dtype))
        encoder = _make_encoder(tower).to(dtype)
        model = build_model(llm, shape, stage)
    codec = open_codec(identify_codec("int8"))
    return _put_together(encoder, model, codec, "int8", text_tokens, num_views, dtype)


def _put_together(
    encoder: VisionEncoder,
    model: OneTokenModel,
    codec: Codec,
    codec_name: str,
    text_tokens: int,
    num_views: int,
    dtype: torch.dtype,
) -> Subject:
    all_patches = replace(model.shape, reducer=ALL_PATCHES, num_prefusion_layers=0)
    plain = build_model(model.llm, all_patches, 2)
    for one in (model, plain):
        one.requires_grad_(False).eval()
        cast_weights(one, dtype)
    config = model.shape.reducer
    size, device = encoder.size_px, encoder.device
    pixels = torch.randn(num_views, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    seen = encoder.encode_fixed(pixels, num_views)
    return Subject(
        encoder=encoder,
        model=model,
        plain=plain,
        reducer=make_reducer(config, encoder) if config.needs_focus else None,
        codec=codec,
        codec_name=codec_name,
        pixels=pixels,
        payloads=tuple(codec.encode(seen.patches.float().cpu())),
        class_rows=seen.class_row,
        text_tokens=text_tokens,
        dtype=dtype,
    )
