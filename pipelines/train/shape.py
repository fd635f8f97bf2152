"""What a user chooses about a model: its parts, the stage of training, and how a step is computed."""

from dataclasses import dataclass, field
from typing import Literal

from operators.positions import PositionMode
from operators.prefusion import PrefusionInit
from operators.reducers import bound_frame_tokens
from operators.views import VIEWS_PER_PICTURE
from schemas.feature import FeatureSpec
from schemas.reducer import ReducerConfig
from schemas.training import TrainConfig

Stage = Literal[1, 2]
"""1 aligns the projector; 2 trains the one-token model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """What decides which parameters a model has."""

    encoder_width: int = 1024
    """Width of the cached patches."""
    grid: int = 1
    """C: the compressor keeps C*C tokens of a frame."""
    num_prefusion_layers: int = 4
    """0 leaves pre-fusion out."""
    prefusion_init: PrefusionInit = "zero"
    positions: PositionMode = "published"
    num_compressor_heads: int = 8
    reducer: ReducerConfig = field(default_factory=ReducerConfig)
    """What takes the compressor's place."""
    trains_embeddings: bool = False
    """Token embeddings have a gradient, where the language model trains in full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationPlan:
    """How a step is computed: decides memory and time, and numbers up to rounding only."""

    checkpoint: bool = False
    """Recompute the language model's and the pre-fusion's layers, one at a time."""
    frames_per_chunk: int | None = None
    """Frames that are fused at once; None: all.

    With `checkpoint`, each chunk is recomputed too, once more than its layers are: of a long video only its
    features are kept.
    """
    loss_rows_per_chunk: int | None = None
    """Rows of logits that exist at once; None: as many as make 2^26 logits."""
    packed: bool = False
    """The examples of a micro-batch share one row of the language model: nothing is padded there."""


def shape_of(config: TrainConfig, encoder_width: int) -> ModelShape:
    """The model that a configuration asks for, over features of a width."""
    return ModelShape(
        encoder_width=encoder_width,
        grid=config.model.grid,
        num_prefusion_layers=config.model.prefusion.layers,
        prefusion_init=config.model.prefusion.init,
        positions=config.model.positions,
        reducer=config.model.reducer,
        trains_embeddings=config.model.train_embeddings,
    )


def plan_of(config: TrainConfig) -> ActivationPlan:
    """How a configuration has steps computed."""
    return ActivationPlan(
        checkpoint=config.memory.checkpoint_layers,
        frames_per_chunk=config.memory.frames_per_chunk,
        packed=config.data.unit == "pack",
    )


def count_patches(config: TrainConfig, spec: FeatureSpec) -> int:
    """Tokens of a view that reach the model; at most, where it depends on the picture."""
    stored = spec.encoder.num_patches
    if spec.reducer != "none":
        stored = bound_frame_tokens(spec.reducer, stored)
    reducer = config.model.reducer
    return bound_frame_tokens(reducer, stored) if reducer.needs_focus else stored


def count_frame_tokens(config: TrainConfig, spec: FeatureSpec) -> int:
    """What a frame takes in the language model's sequence; at most, where it depends on the picture."""
    return tokens_of_frame(config, count_views(config, spec), count_patches(config, spec))


def tokens_of_frame(config: TrainConfig, num_views: int, num_patches: int) -> int:
    """The same of a frame of so many views and patches."""
    reducer = config.model.reducer
    if reducer.name == "query" and config.stage == 2:
        return config.model.grid**2
    if reducer.is_trained:
        return num_patches if config.stage == 1 else reducer.num_tokens
    if reducer.name != "all" and not reducer.needs_focus:
        num_patches = bound_frame_tokens(reducer, num_patches)
    return num_views * num_patches


def count_fused_tokens(config: TrainConfig, spec: FeatureSpec) -> int:
    """What pre-fusion reads of a frame before the instruction; at most, where it depends on the picture.

    0 where there is no pre-fusion.
    """
    if config.stage == 1 or config.model.prefusion.layers == 0:
        return 0
    reducer = config.model.reducer
    patches = count_views(config, spec) * count_patches(config, spec)
    keeps_all = reducer.name == "all" or reducer.needs_focus
    return patches if keeps_all else patches + count_frame_tokens(config, spec)


def count_views(config: TrainConfig, spec: FeatureSpec) -> int:
    """Views of a picture that the model reads."""
    return VIEWS_PER_PICTURE[spec.image_views] if config.data.views == "all" else 1
