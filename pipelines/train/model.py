"""The one-token model: cached features and text in, a summed loss out.

Stage 1 aligns the projector: all patches of the whole picture stand in place of the medium's token, as in LLaVA.
Stage 2 is LLaVA-Mini: each frame becomes C*C compressed tokens, and pre-fusion writes what the patches say into the
instruction before the language model reads it. The vision tower is never here: its output comes from the cache.

The language model is any Hugging Face causal LM with Llama-like parts (`model.layers`, `model.embed_tokens`,
`lm_head`). Token embeddings are looked up without gradient unless asked, as in the published training.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from operators.batch import ModelBatch

Stage = Literal[1, 2]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """What decides which parameters a model has."""

    encoder_width: int = 1024
    """Width of the cached patches."""
    grid: int = 1
    """C: the compressor keeps C*C tokens of a frame."""
    num_prefusion_layers: int = 4
    """0 leaves pre-fusion out."""
    prefusion_init: Literal["zero", "copy", "random"] = "zero"
    positions: Literal["published", "native"] = "published"
    num_compressor_heads: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationPlan:
    """What is recomputed in the backward pass instead of kept; decides memory and time, never numbers."""

    checkpoint: bool = False
    """Recompute the language model's layers and the pre-fusion chunks."""
    frames_per_chunk: int | None = None
    """Frames that go through compressor and pre-fusion at once; None: all."""
    loss_rows_per_chunk: int = 2048
    """Rows of logits that exist at once."""


class LossSum(NamedTuple):
    """A loss to be divided by the labels of the whole global batch."""

    total: Float[Tensor, ""]
    """Cross-entropy summed over learned tokens, fp32; carries the gradient."""
    num_labels: int
    example_totals: Float[Tensor, " batch"]
    """The same sum per example, detached; for evaluation by source."""
    example_labels: tuple[int, ...]


class ParameterGroup(NamedTuple):
    """Trainable parameters that share a learning rate."""

    name: Literal["projector", "rest"]
    parameters: tuple[tuple[str, nn.Parameter], ...]


class OneTokenModel(nn.Module):
    """Projector, compressor, pre-fusion and language model, for one stage of training."""

    def __init__(
        self, llm: PreTrainedModel, shape: ModelShape, stage: Stage, plan: ActivationPlan | None = None
    ) -> None:
        """Build fresh modules around `llm`, on its device and in its dtype; stage 1 has a projector only."""
        super().__init__()
        raise NotImplementedError

    def set_trainable(self, *, train_embeddings: bool = False) -> None:
        """Let this stage's parameters train: the projector (1), or all but the token embeddings (2)."""
        raise NotImplementedError

    def parameter_groups(self) -> tuple[ParameterGroup, ...]:
        """The trainable parameters by group, empty groups left out."""
        raise NotImplementedError

    def forward(self, batch: ModelBatch) -> LossSum:
        """The summed loss of a batch that stands on the model's device."""
        raise NotImplementedError


def build_model(
    llm: PreTrainedModel,
    shape: ModelShape,
    stage: Stage,
    *,
    seed: int = 0,
    plan: ActivationPlan | None = None,
) -> OneTokenModel:
    """A model with fresh modules drawn from `seed`, its stage's parameters trainable; the global RNG is untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = OneTokenModel(llm, shape, stage, plan)
    model.set_trainable()
    return model
