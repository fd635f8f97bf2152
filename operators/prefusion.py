"""Pre-fusion: decoder layers that let a frame's patches write into the instruction before the language model.

The layers are of the language model's own kind (LLaVA-Mini, section 4.2, equation 3): its own model class,
built from its own configuration with fewer layers, without embedding and final norm. So rotary positions,
grouped heads and attention kernels are the library's, and any Llama-like backbone works.

Rows are causal and padded on the right, so no mask is built: padding comes after all that is read, positions
count from 0, and the fused causal kernel runs. What stands in the padding of the result is meaningless.

How it starts was never published, and it matters more than anything else here: `zero` makes every layer the
identity at first (output projections of attention and MLP are zero), `copy` takes the language model's first
layers, `random` is the library's initialization, which replaces the text by noise until it has been trained.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Literal, cast

from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoModel, PretrainedConfig, PreTrainedModel

from operators.causal import use_causal_kernel
from schemas.errors import ConfigError

PrefusionInit = Literal["zero", "copy", "random"]
"""What the fresh layers compute."""


def shrink_config(config: PretrainedConfig, num_layers: int) -> PretrainedConfig:
    """The same kind of decoder with `num_layers` layers and a vocabulary of one."""
    small = copy.deepcopy(config)
    small.num_hidden_layers = num_layers
    small.vocab_size = 1
    small.pad_token_id = None
    layer_types = cast("list[str] | None", getattr(small, "layer_types", None))
    if layer_types is not None:
        small.layer_types = layer_types[:num_layers]
    return small


def build_decoder(config: PretrainedConfig) -> PreTrainedModel:
    """The library's decoder for a configuration, with fresh weights from the global generator."""
    build = cast(
        "Callable[[PretrainedConfig], PreTrainedModel]",
        AutoModel.from_config,  # pyright: ignore[reportUnknownMemberType]
    )
    return build(config)


class Prefusion(nn.Module):
    """N decoder layers over [patches | compressed | instruction] of each frame."""

    def __init__(self, config: PretrainedConfig, num_layers: int, init: PrefusionInit) -> None:
        """Build the layers; `copy` still needs `copy_layers`.

        Raises:
            ConfigError: there are no layers, or the decoder has no parts named as Llama's.
        """
        super().__init__()
        if num_layers < 1:
            raise ConfigError(f"pre-fusion needs at least 1 layer, not {num_layers}; 0 means to build none")
        decoder = build_decoder(shrink_config(config, num_layers))
        if not all(hasattr(decoder, part) for part in ("layers", "norm", "embed_tokens")):
            raise ConfigError(
                f"{type(decoder).__name__} lacks layers, norm or embed_tokens; name a Llama-like model"
            )
        decoder.embed_tokens = nn.Identity()
        decoder.norm = nn.Identity()
        use_causal_kernel(decoder)
        self.decoder = decoder
        if init == "zero":
            zero_output_projections(self.layers)

    @property
    def layers(self) -> nn.ModuleList:
        """The decoder layers, in order."""
        return cast("nn.ModuleList", self.decoder.layers)

    def copy_layers(self, layers: nn.ModuleList) -> None:
        """Take the weights of the first of `layers`.

        Raises:
            ConfigError: there are fewer layers than pre-fusion has.
        """
        if len(layers) < len(self.layers):
            raise ConfigError(
                f"pre-fusion of {len(self.layers)} layers cannot copy from a model of {len(layers)}; "
                "lower num_prefusion_layers or choose another prefusion_init"
            )
        for own, source in zip(self.layers, layers, strict=False):
            own.load_state_dict(source.state_dict())

    def forward(self, rows: Float[Tensor, "frames length width"]) -> Float[Tensor, "frames length width"]:
        """The rows after fusion; right padding stays meaningless."""
        return self.decoder(inputs_embeds=rows, use_cache=False).last_hidden_state


def zero_output_projections(layers: nn.ModuleList) -> None:
    """Make each layer the identity by zeroing what its attention and its MLP add.

    Raises:
        ConfigError: a layer has no projections named `o_proj` and `down_proj`.
    """
    for layer in layers:
        named = cast("Iterator[tuple[str, nn.Module]]", layer.named_modules())
        found = {
            name.rsplit(".", 1)[-1]: module
            for name, module in named
            if name.endswith((".o_proj", ".down_proj")) and isinstance(module, nn.Linear)
        }
        if set(found) != {"o_proj", "down_proj"}:
            raise ConfigError(
                f"{type(layer).__name__} has no o_proj and down_proj to zero; choose the init copy or random"
            )
        for module in found.values():
            for parameter in module.parameters():
                nn.init.zeros_(parameter)
