"""Whether a language model reads sequences as long as a run's: refused before the first step.

Of an example it reads text and the tokens of all frames at once; pre-fusion, whose layers are of its kind,
reads all patches of one frame, then the instruction. Which examples that is too long for, tables of lengths
tell; only those near the limit are written out. Clips count as long as their containers say. A language model
that states no limit has none.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jobs.training_data import TrainingData
from schemas.errors import ConfigError
from schemas.training import TrainConfig

if TYPE_CHECKING:
    from operators.prompt import Prompter
    from pipelines.stream.lengths import Lengths
    from pipelines.stream.stream import FeatureStream


class Context(NamedTuple):
    """How much is read at once, and what has to fit."""

    config: TrainConfig
    data: TrainingData
    lengths: "Lengths"
    prompter: "Prompter"
    num_tokens: int
    """That the language model was made to read."""


def check_context(
    config: TrainConfig,
    data: TrainingData,
    lengths: "Lengths",
    prompter: "Prompter",
    llm_config: object,
    *streams: "FeatureStream",
) -> None:
    """Refuse a run with examples that are longer than what its language model was made to read.

    Args:
        config: of the run.
        data: its corpus.
        lengths: of the prompts.
        prompter: that writes them.
        llm_config: of the language model.
        streams: of the examples: those that are trained on, and those that are held out.

    Raises:
        ConfigError: naming the longest example.
    """
    num_tokens: int | None = getattr(llm_config, "max_position_embeddings", None)
    if num_tokens is None:
        return
    context = Context(config, data, lengths, prompter, num_tokens)
    for stream in streams:
        _check_sequences(context, stream)
        _check_fusion(context, stream)


def _check_sequences(context: Context, stream: "FeatureStream") -> None:
    """What the language model reads."""
    lengths, limit = stream.catalog.table.lengths, context.num_tokens
    row = int(lengths.argmax())
    if int(lengths[row]) <= limit:
        return
    raise ConfigError(
        f"{int((lengths > limit).sum())} examples are longer than the {limit} tokens that `model.llm: "
        f"{context.config.model.llm}` reads; the longest, {stream.loader.read_text(row).example_id}, has "
        f"{int(lengths[row])}, those of its media among them; read fewer frames (`data.frames`), or fewer "
        "tokens of each (`model.grid`, `model.reducer`), or lower `data.max_tokens`"
    )


def _check_fusion(context: Context, stream: "FeatureStream") -> None:
    """What pre-fusion reads; `data.max_tokens` may be reason enough not to look."""
    from pipelines.stream.lengths import bound_instructions
    from pipelines.train.shape import count_fused_tokens

    config, data, limit = context.config, context.data, context.num_tokens
    num_fixed = count_fused_tokens(config, data.spec)
    if num_fixed + config.data.max_tokens <= limit or num_fixed == 0:
        return
    bounds = bound_instructions(data.storage, data.manifest.examples, context.lengths)[stream.catalog.rows]
    for row in np.argsort(-bounds.astype(np.int64), kind="stable").tolist():
        if not bounds[row] or num_fixed + int(bounds[row]) <= limit:
            return
        num_fused, example_id = _count_fused(context, stream, row)
        if num_fixed + num_fused > limit:
            raise ConfigError(
                f"pre-fusion reads {num_fixed + num_fused} tokens of example {example_id}, {num_fixed} of a "
                f"frame and {num_fused} of its instruction, and `model.llm: {config.model.llm}`, whose kind "
                f"its layers are, {limit}; lower `data.max_tokens`, or read fewer patches (`data.views: "
                "whole`, a `model.reducer` that prunes)"
            )


def _count_fused(context: Context, stream: "FeatureStream", row: int) -> tuple[int, str]:
    """The tokens of an example's instruction, and which example it is."""
    from operators.prompt import count_placeholders
    from pipelines.stream.turns import parse_turns

    text = stream.loader.read_text(row)
    turns = parse_turns(text)
    prompt = context.prompter.write_training(turns, count_placeholders(turns))
    return sum(prompt.fuse_mask), text.example_id
