"""The demo's language model: a Llama of two narrow layers with weights drawn from a seed.

Untrained, so everything that the demo says it has learned. The weights are drawn wider than the library's
default, which suits models a hundred times as broad: here it would leave attention flat and training slow
to start.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from operators.loading import quiet_transformers


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageModelShape:
    """Sizes of the demo's Llama."""

    width: int = 128
    num_layers: int = 2
    num_heads: int = 4
    mlp_width: int = 256
    initializer_range: float = 0.08
    max_length: int = 4096


def save_language_model(
    folder: Path,
    *,
    vocabulary_size: int,
    bos_id: int,
    eos_id: int,
    pad_id: int,
    shape: LanguageModelShape | None = None,
    seed: int = 0,
) -> None:
    """A Llama under `folder`, as `from_pretrained` reads it; the global random state is left as it was."""
    sizes = shape or LanguageModelShape()
    config = LlamaConfig(
        vocab_size=vocabulary_size,
        hidden_size=sizes.width,
        intermediate_size=sizes.mlp_width,
        num_hidden_layers=sizes.num_layers,
        num_attention_heads=sizes.num_heads,
        num_key_value_heads=sizes.num_heads,
        max_position_embeddings=sizes.max_length,
        initializer_range=sizes.initializer_range,
        bos_token_id=bos_id,
        eos_token_id=eos_id,
        pad_token_id=pad_id,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):  # pyright: ignore[reportUnknownMemberType]
        torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType]
        model = LlamaForCausalLM(config)
    with quiet_transformers():
        model.save_pretrained(folder)  # pyright: ignore[reportUnknownMemberType]
