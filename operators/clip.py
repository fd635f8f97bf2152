"""The frozen vision encoder: normalized views in; patch features and the class row of one layer out.

Any CLIP or SigLIP tower that transformers knows, by folder or name. LLaVA takes `hidden_states[-2]`, what the
last layer but one gives, so the layers behind it are dropped after loading: 4 % less work for ViT-L, and the
same result, bit for bit (tested). The first norm, query and key of the first dropped layer are kept aside,
see `operators.class_attention`.

Equal views give equal bits only within one batch size, since matrix kernels differ between sizes. So a GPU
gets batches of one size, the last of them padded (`encode_fixed`): batch mates and position then change
nothing, for one device class and library version. A CPU gets one view at a time, and the features are the
same bits for any batch size; at ViT-L's shape that costs no time (fp32: 0.9 of the CPU time of batches of 8).

On a CPU channels-last gains nothing and `torch.compile` 5 % (BENCHMARKS.md), less than compiling costs every
worker, so neither is here; bfloat16 is for GPUs, and for processors with instructions for it. What compiling
and CUDA graphs gain on a GPU has not been measured.

SigLIP has no class token: of its views patches alone are kept, and nobody can ask what the class token looks
at. SigLIP 2 of a fixed size is the same tower and model type; the one of any size (NaFlex) is refused.

Weights come as safetensors, or else through `torch.load(weights_only=True)`; code from a model's repository
is never run. Weights that the file lacks would be filled at random by transformers: here they are an error.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Final, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoConfig, CLIPVisionModel, PreTrainedConfig, PreTrainedModel, SiglipVisionModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from operators.class_attention import AttentionWeights
from operators.loading import quiet_transformers
from operators.preprocess import CLIP_PROCESSOR, SIGLIP_PROCESSOR, Processor, parse_processor
from schemas.errors import ConfigError, CorruptError, NotFoundError

_TOWERS: Final[dict[str, type[PreTrainedModel]]] = {
    "clip": CLIPVisionModel,
    "clip_vision_model": CLIPVisionModel,
    "siglip": SiglipVisionModel,
    "siglip_vision_model": SiglipVisionModel,
}
_NAFLEX_HINT: Final = (
    "; this one takes views of any size (NaFlex), the cache holds views of one: use a SigLIP 2 of fixed size"
)


@dataclasses.dataclass(frozen=True, slots=True)
class EncoderOutput:
    """What is cached of each view."""

    patches: Float[Tensor, "views patches width"]
    class_row: Float[Tensor, "views width"] | None
    """None for towers without a class token (SigLIP)."""


class VisionEncoder(nn.Module):
    """A frozen tower, cut behind one layer."""

    def __init__(self, tower: PreTrainedModel, *, layer: int = -2) -> None:
        """Takes `tower` over: it is cut and frozen. `layer` counts as in `hidden_states`: -1 is the last.

        Raises:
            ConfigError: the tower has no such layer.
        """
        super().__init__()
        layers = cast("nn.ModuleList", tower.get_submodule("encoder.layers"))
        num_kept = len(layers) + 1 + layer
        if layer >= 0 or num_kept < 1:
            raise ConfigError(f"encoder layer {layer}: write -1 (the last layer) to -{len(layers)}")
        self.size_px = _read_integer(tower.config, "image_size")
        self.num_patches = (self.size_px // _read_integer(tower.config, "patch_size")) ** 2
        self.width = _read_integer(tower.config, "hidden_size")
        self.embeddings = tower.get_submodule("embeddings")
        self.pre_norm = (
            tower.get_submodule("pre_layrnorm") if hasattr(tower, "pre_layrnorm") else nn.Identity()
        )
        self.layers = layers[:num_kept]
        self.has_class_row = hasattr(self.embeddings, "class_embedding")
        self.architecture = _describe_architecture(tower.config)
        self._next_attention = _copy_attention_weights(tower.config, layers[num_kept]) if layer < -1 else None
        self.requires_grad_(False).eval()

    @property
    def dtype(self) -> torch.dtype:
        """Of weights, inputs and features."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are; pixels are moved there."""
        return next(self.parameters()).device

    @torch.inference_mode()
    def encode(self, pixels: Float[Tensor, "views 3 size size"]) -> EncoderOutput:
        """Features of normalized views, as one batch; not checked to be finite."""
        return self._split_rows(self._compute_rows(pixels))

    def encode_fixed(self, pixels: Float[Tensor, "views 3 size size"], batch_size: int) -> EncoderOutput:
        """Features of any number of views: one by one on a CPU, else in batches of exactly `batch_size`.

        The last batch is padded. Not checked to be finite: one bad view must not cost its batch mates; the
        codecs refuse it alone.
        """
        batch_size = 1 if self.device.type == "cpu" else batch_size
        num_batches = max(1, -(-len(pixels) // batch_size))
        missing = num_batches * batch_size - len(pixels)
        padded = torch.cat([pixels, pixels.new_zeros(missing, *pixels.shape[1:])])
        with torch.inference_mode():
            starts = range(0, len(padded), batch_size)
            rows = torch.cat([self._compute_rows(padded[start : start + batch_size]) for start in starts])
        return self._split_rows(rows[: len(pixels)])

    def last_layer_attention_weights(self) -> AttentionWeights:
        """First norm, query and key of the layer that the features would enter next.

        Raises:
            ConfigError: the features are those of the last layer.
        """
        if self._next_attention is None:
            raise ConfigError("encoder layer -1 is followed by no layer; class attention needs layer -2")
        return self._next_attention

    def compute_weights_digest(self) -> str:
        """The digest of all tensors that the features, and what reducers make of them, depend on."""
        tensors: dict[str, Tensor] = self.state_dict()
        if self._next_attention is not None:
            for name, tensor in self._next_attention.tensors.items():
                tensors[f"next_attention.{name}"] = tensor
        return compute_weights_digest(tensors)

    def _compute_rows(self, pixels: Float[Tensor, "views 3 size size"]) -> Float[Tensor, "views rows width"]:
        rows = self.pre_norm(self.embeddings(pixels.to(self.device, self.dtype)))
        for layer in self.layers:
            rows = layer(rows, None)
        return rows

    def _split_rows(self, rows: Float[Tensor, "views rows width"]) -> EncoderOutput:
        if self.has_class_row:
            return EncoderOutput(rows[:, 1:], rows[:, 0])
        return EncoderOutput(rows, None)


def load_encoder(model: str, *, layer: int = -2, dtype: torch.dtype = torch.float32) -> VisionEncoder:
    """The vision tower of a CLIP or SigLIP model, from a folder or by its name on the Hub.

    Raises:
        NotFoundError: no such folder or name.
        ConfigError: a model of another kind, or no such layer.
        CorruptError: the file lacks weights.
    """
    with quiet_transformers():
        try:
            config = _load_config(model)
            tower_class = _find_tower_class(config, model)
            tower, loading = cast(
                "tuple[PreTrainedModel, dict[str, set[str]]]",
                tower_class.from_pretrained(  # pyright: ignore[reportUnknownMemberType]
                    model,
                    dtype=dtype,
                    attn_implementation="sdpa",
                    weights_only=True,
                    output_loading_info=True,
                ),
            )
        except (OSError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise NotFoundError(
                f"encoder {model!r} cannot be loaded: {reason} Paths start where the command is run; if it "
                "has moved, name its folder (`encoder.model` of a recipe, `--encoder` of generate)"
            ) from error
    broken = sorted({*loading["missing_keys"], *(str(key) for key in loading["mismatched_keys"])})
    if broken:
        raise CorruptError(f"encoder {model!r} lacks {len(broken)} of its weights, {broken[0]} first")
    return VisionEncoder(tower, layer=layer)


def read_processor(model: str, encoder: VisionEncoder) -> Processor:
    """The model's own image processor values; CLIP's at its size where a CLIP brings none.

    Raises:
        ConfigError: the processor does something that `operators.preprocess` does not, or another size; a
            model of another kind brings none.
    """
    usual = CLIP_PROCESSOR if encoder.has_class_row else SIGLIP_PROCESSOR
    with quiet_transformers():
        try:
            loaded = CLIPImageProcessorPil.get_image_processor_dict(model)  # pyright: ignore[reportUnknownMemberType]
        except OSError as error:
            if encoder.has_class_row:
                return dataclasses.replace(usual, size_px=encoder.size_px)
            raise ConfigError(
                f"{model!r} brings no preprocessor_config.json that can be read, and models of its kind "
                "differ in theirs; put it beside the weights"
            ) from error
    processor = parse_processor(json.dumps(loaded[0]), usual)
    if processor.size_px != encoder.size_px:
        message = (
            f"{model!r}: the processor makes {processor.size_px} px, the encoder takes {encoder.size_px} px"
        )
        raise ConfigError(message)
    return processor


def compute_weights_digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over name, dtype, shape and bytes of every tensor, sorted by name; files do not matter."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _load_config(model: str) -> PreTrainedConfig:
    return cast(
        "PreTrainedConfig",
        AutoConfig.from_pretrained(model, trust_remote_code=False),  # pyright: ignore[reportUnknownMemberType]
    )


def _find_tower_class(config: PreTrainedConfig, model: str) -> type[PreTrainedModel]:
    tower_class = _TOWERS.get(config.model_type)
    hint = _NAFLEX_HINT if config.model_type.startswith("siglip2") else ""
    if tower_class is None:
        known = ", ".join(_TOWERS)
        raise ConfigError(f"encoder {model!r} is a {config.model_type!r} model; known are {known}{hint}")
    return tower_class


def _copy_attention_weights(config: PreTrainedConfig, layer: nn.Module) -> AttentionWeights:
    modules = {"norm": "layer_norm1", "query": "self_attn.q_proj", "key": "self_attn.k_proj"}
    tensors = {
        f"{name}.{part}": layer.get_submodule(path).get_parameter(part).detach().clone()
        for name, path in modules.items()
        for part in ("weight", "bias")
    }
    return AttentionWeights(
        tensors=tensors,
        num_heads=_read_integer(config, "num_attention_heads"),
        norm_epsilon=float(cast("float", getattr(config, "layer_norm_eps"))),  # noqa: B009
    )


def _describe_architecture(config: PreTrainedConfig) -> str:
    """What decides features and shows in no weight."""
    names = ("model_type", "num_attention_heads", "hidden_act", "layer_norm_eps", "patch_size", "image_size")
    return ", ".join(f"{name} {getattr(config, name)}" for name in names)


def _read_integer(config: PreTrainedConfig, name: str) -> int:
    return int(cast("int", getattr(config, name)))
