"""Low-rank adapters on the language model (peft), and its weights in 4 bits below them (bitsandbytes).

Every projection of the language model's decoder layers gets two thin matrices that train in float32, and
stays frozen itself; projector, compressor and pre-fusion train in full. So gradients can be accumulated and
clipped, at 16 bytes for each of the 1.15 billion weights of a 7B model that train. The pre-fusion layers are
never adapted: names are searched in the language model alone.

A model that is not trained any more has its adapters folded into plain weights, so answering, evaluation and
export know nothing of them. Left out: nested quantization of the 4-bit scales, whose offset no tensor holds,
so that a checkpoint could not restore it; it would save 0.37 bits a weight.
"""

import importlib
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from pipelines.train.model import OneTokenModel
from schemas.errors import ConfigError
from schemas.training import LoraConfig

ADAPTED: Final = r".*\.layers\.\d+\.(self_attn|mlp)\.[a-z_]+_proj"
"""Names of the modules of a language model that get adapters."""
ADAPTER: Final = "default"
"""What peft calls an adapter that nobody names; it stands in the names of the weights."""


def add_lora(model: OneTokenModel, lora: LoraConfig, seed: int) -> None:
    """Adapt the language model, in place; then its adapters train, and all that is not the language model.

    The global random state is left as it was.

    Raises:
        ConfigError: a library is not installed, or the model has no such projections.
    """
    peft = _import("peft", "model.lora", "lora")
    if lora.base == "nf4":
        quantize_linears(model)
    settings = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=ADAPTED
    )
    with torch.random.fork_rng(devices=[]):  # pyright: ignore[reportUnknownMemberType]
        torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType]
        try:
            peft.inject_adapter_in_model(settings, model.llm)
        except ValueError as error:
            raise ConfigError(f"`model.lora` finds nothing to adapt in this `model.llm`: {error}") from error
    model.set_trainable()


def fold_lora(model: OneTokenModel) -> None:
    """Put plain layers in the place of adapted ones, their adapters added to their weights."""
    for name, module in _list_modules(model.llm):
        if not hasattr(module, "lora_A"):
            continue
        adapted: Any = module
        base: Any = adapted.get_base_layer()
        weight = _open_weight(base).float() + adapted.get_delta_weight(ADAPTER).float()
        dtype = base.weight.dtype if base.weight.is_floating_point() else adapted.lora_A[ADAPTER].weight.dtype
        plain = nn.Linear(base.in_features, base.out_features, bias=base.bias is not None, device="meta")
        plain.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
        plain.bias = base.bias
        _replace(model.llm, name, plain)


def quantize_linears(model: OneTokenModel) -> None:
    """The projections of the language model in NF4, with a scale for each 64 weights.

    Raises:
        ConfigError: bitsandbytes is not installed.
    """
    library = _import("bitsandbytes", "model.lora.base: nf4", "qlora")
    for name, linear in _list_modules(model.llm):
        if not isinstance(linear, nn.Linear) or not re.fullmatch(ADAPTED, name):
            continue
        small: Any = library.nn.Linear4bit(
            linear.in_features,
            linear.out_features,
            bias=cast("Tensor | None", linear.bias) is not None,
            compress_statistics=False,
            quant_type="nf4",
            device="meta",
        )
        weight = linear.weight.detach()
        small.weight = library.nn.Params4bit(
            weight, requires_grad=False, compress_statistics=False, quant_type="nf4", module=small
        ).to(weight.device)
        small.bias = linear.bias
        _replace(model.llm, name, small)


def _list_modules(llm: nn.Module) -> list[tuple[str, nn.Module]]:
    """All of them, before any is replaced."""
    return list(cast("Iterator[tuple[str, nn.Module]]", llm.named_modules()))


def _open_weight(base: Any) -> Tensor:  # noqa: ANN401 - plain, or the library's
    """The weight of a layer, out of its 4 bits where it lies in them."""
    if base.weight.is_floating_point():
        return base.weight.detach()
    library = _import("bitsandbytes", "model.lora.base: nf4", "qlora")
    return library.functional.dequantize_4bit(base.weight.data, base.weight.quant_state)


def _replace(root: nn.Module, name: str, module: nn.Module) -> None:
    owner, _, last = name.rpartition(".")
    setattr(root.get_submodule(owner), last, module)


def _import(library: str, setting: str, extra: str) -> Any:  # noqa: ANN401 - not there in every environment
    try:
        module: ModuleType = importlib.import_module(library)
    except ImportError as error:
        raise ConfigError(
            f"`{setting}` needs {library}; install onetoken[{extra}], or leave it out"
        ) from error
    return module
