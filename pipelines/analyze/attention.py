"""Who looks at whom in a language model, layer by layer, and what the loss is where vision is not looked at.

Tokens have a role: vision (what stands in a medium's place), response (what is learned) and instruction (all
other text). For each layer and each role of the token that looks, the share of its attention that goes to
each role, and the entropy, in bits, of that which goes to vision; means over heads, tokens and examples. The
paper of LLaVA-Mini (section 3) tells of both. Vision is dropped from a range of layers by forbidding all
other tokens to look at it there; vision tokens go on among themselves.

Attention maps are needed whole, so the library's eager kernel computes them: rows squared times heads each.
"""

import math
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from enum import IntEnum
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from operators.batch import IGNORED_LABEL, ModelBatch
from pipelines.train.layout import SequenceLayout
from pipelines.train.loss import token_losses
from pipelines.train.model import OneTokenModel

LOSS_ROWS = 2048


class Role(IntEnum):
    """Of a token."""

    INSTRUCTION = 0
    VISION = 1
    RESPONSE = 2


class AttentionSums(NamedTuple):
    """Sums over the tokens of a batch, by layer and role of the token that looks."""

    shares: Float[Tensor, "layers looking seen"]
    entropy: Float[Tensor, "layers looking"]
    """In bits, of the attention to vision; tokens that see none count nothing."""
    tokens: Int64[Tensor, " looking"]
    seeing: Int64[Tensor, " looking"]
    """Tokens that have vision before them."""

    def add(self, other: "AttentionSums") -> "AttentionSums":
        """Both batches."""
        return AttentionSums(*(one + two for one, two in zip(self, other, strict=True)))


def find_roles(batch: ModelBatch, layout: SequenceLayout) -> Int64[Tensor, "batch length"]:
    """The role of each token of the spliced rows; -1 for padding."""
    num_text = batch.token_ids.numel()
    is_response = (batch.labels != IGNORED_LABEL).flatten()
    by_text = torch.where(is_response, int(Role.RESPONSE), int(Role.INSTRUCTION)).to(layout.sources.device)
    roles = torch.full_like(layout.sources, int(Role.VISION))
    is_text = layout.sources < num_text
    roles[is_text] = by_text[layout.sources[is_text]]
    places = torch.arange(layout.sources.shape[1], device=roles.device)
    lengths = torch.tensor(layout.lengths, device=roles.device)
    return roles.masked_fill(places >= lengths[:, None], -1)


@torch.no_grad()
def measure_attention(model: OneTokenModel, batch: ModelBatch) -> AttentionSums:
    """Sums over a batch that stands on the model's device."""
    rows, layout = model.splice(batch)
    roles = find_roles(batch, layout)
    with _eager(model):
        maps = cast(
            "Sequence[Tensor]",
            model.llm.base_model(inputs_embeds=rows, use_cache=False, output_attentions=True).attentions,
        )
    by_layer = [_sum_layer(one.float().mean(dim=1), one.float(), roles) for one in maps]
    tokens = torch.stack([(roles == role).sum() for role in Role])
    sees = (roles == Role.VISION).cumsum(dim=1) > 0
    seeing = torch.stack([((roles == role) & sees).sum() for role in Role])
    return AttentionSums(
        torch.stack([shares for shares, _ in by_layer]),
        torch.stack([entropy for _, entropy in by_layer]),
        tokens,
        seeing,
    )


@torch.no_grad()
def measure_loss_without_vision(
    model: OneTokenModel, batch: ModelBatch, layers: Sequence[int]
) -> tuple[float, int]:
    """The summed loss and the labels of a batch, where other tokens do not see vision in these layers."""
    rows, layout = model.splice(batch)
    roles = find_roles(batch, layout)
    forbidden = (roles == Role.VISION)[:, None, None, :] & (roles != Role.VISION)[:, None, :, None]
    with _eager(model), ExitStack() as hooks:
        decoder = cast("nn.ModuleList", model.llm.base_model.layers)
        for layer in layers:
            handle = decoder[layer].register_forward_pre_hook(_make_hook(forbidden), with_kwargs=True)
            hooks.callback(handle.remove)
        hidden: Tensor = model.llm.base_model(inputs_embeds=rows, use_cache=False).last_hidden_state
    losses = token_losses(
        model.head, hidden.flatten(0, 1)[layout.label_rows], layout.label_targets, LOSS_ROWS
    )
    return float(losses.sum()), losses.shape[0]


def cut_ranges(num_layers: int, size: int) -> list[range]:
    """Layers in ranges of this size, the last one shorter."""
    return [range(first, min(first + size, num_layers)) for first in range(0, num_layers, size)]


def _sum_layer(
    mean_map: Float[Tensor, "batch length length2"],
    maps: Float[Tensor, "batch heads length length2"],
    roles: Int64[Tensor, "batch length"],
) -> tuple[Float[Tensor, "looking seen"], Float[Tensor, " looking"]]:
    seen = torch.stack([(roles == role).float() for role in Role], dim=-1)
    shares = torch.einsum("bqk,bkr->bqr", mean_map, seen)
    to_vision = maps * seen[:, None, None, :, Role.VISION]
    share = to_vision / to_vision.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    bits = torch.xlogy(share, share).sum(dim=-1) / -math.log(2)
    entropy = bits.mean(dim=1)
    looking = [roles == role for role in Role]
    return (
        torch.stack([shares[is_role].sum(dim=0) for is_role in looking]),
        torch.stack([entropy[is_role].sum() for is_role in looking]),
    )


@contextmanager
def _eager(model: OneTokenModel) -> Generator[None]:
    """Let the language model compute its attention maps, for as long as the block runs."""
    config = cast(Any, model.llm.config)
    before = config._attn_implementation
    config._attn_implementation = "eager"
    try:
        yield
    finally:
        config._attn_implementation = before


def _make_hook(forbidden: Tensor) -> Any:  # noqa: ANN401 - a hook as torch wants it
    def hook(_module: nn.Module, arguments: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:  # noqa: ANN401
        mask = cast(Tensor, named["attention_mask"])
        low = torch.finfo(mask.dtype).min
        return arguments, named | {"attention_mask": mask.masked_fill(forbidden, low)}

    return hook
