"""The sizes of a language model, by a known name or from a folder's `config.json`; no weight is read."""

from pathlib import Path

from pydantic import BaseModel, ValidationError

from operators.costs.shapes import LANGUAGE_SHAPES, LanguageShape
from schemas.errors import ConfigError


class _Config(BaseModel):
    """What counts of a Llama-like `config.json`."""

    num_hidden_layers: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int | None = None
    vocab_size: int
    max_position_embeddings: int = 0


def find_language_shape(name: str) -> LanguageShape:
    """The sizes of a language model.

    Raises:
        ConfigError: it is neither a known name nor a folder with the configuration of one built like Llama.
    """
    if name in LANGUAGE_SHAPES:
        return LANGUAGE_SHAPES[name]
    path = Path(name) / "config.json"
    try:
        config = _Config.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        known = ", ".join(LANGUAGE_SHAPES)
        raise ConfigError(
            f"no sizes of the language model {name}: it is none of {known}, and {path} is no configuration "
            "of a model built like Llama"
        ) from error
    return LanguageShape(
        name=Path(name).name,
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        inner_width=config.intermediate_size,
        heads=config.num_attention_heads,
        key_value_heads=config.num_key_value_heads or config.num_attention_heads,
        vocabulary=config.vocab_size,
        context=config.max_position_embeddings,
    )
