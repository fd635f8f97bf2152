"""Shapes of usual language models, so that memory is planned without a network.

As in their published configurations; only what decides sizes is listed, the rest is Llama's default.
"""

from typing import Any, Final, cast

from transformers import AutoConfig, LlamaConfig, PretrainedConfig

from schemas.errors import ConfigError

_VICUNA_7B: Final = {"vocab_size": 32000, "max_position_embeddings": 4096}
_VICUNA_13B: Final = _VICUNA_7B | {
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
}
_LLAMA_8B: Final = {
    "vocab_size": 128256,
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
}
_TINY_LLAMA: Final = {
    "vocab_size": 32000,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
}

KNOWN_LLMS: Final[dict[str, dict[str, int]]] = {
    "lmsys/vicuna-7b-v1.5": _VICUNA_7B,
    "lmsys/vicuna-13b-v1.5": _VICUNA_13B,
    "meta-llama/Llama-3.1-8B": _LLAMA_8B,
    "meta-llama/Llama-3.1-8B-Instruct": _LLAMA_8B,
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": _TINY_LLAMA,
}
"""By name on the Hub."""


def find_llm_config(name: str) -> PretrainedConfig:
    """The configuration of a language model: from this table, a folder, or the Hub.

    Raises:
        ConfigError: there is none.
    """
    if name in KNOWN_LLMS:
        return cast(Any, LlamaConfig)(**KNOWN_LLMS[name])
    try:
        return cast(Any, AutoConfig).from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"the configuration of `model.llm: {name}` cannot be read: {error}") from error
