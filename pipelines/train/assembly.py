"""From a configuration or a checkpoint to a model and its prompts: the one place where weights come in.

A language model is loaded by `from_pretrained`: safetensors, or pickles that torch reads with
`weights_only=True`; never code from the model's folder. A weight that its files lack is an error here,
where the library would draw it at random. Cost: a model built from a checkpoint is initialized first and
then overwritten.
"""

from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from operators.chat_prompt import build_prompter
from operators.loading import quiet_transformers
from operators.prompt import Prompter
from operators.tokenizer import Tokenizer
from pipelines.train.checkpoint import Checkpoint, load_weights, open_checkpoint
from pipelines.train.foreign import start_from_foreign
from pipelines.train.llama_like import check_language_model
from pipelines.train.lora import add_lora, fold_lora
from pipelines.train.model import OneTokenModel, build_model
from pipelines.train.precision import cast_weights, dtype_of, trained_dtype_of
from pipelines.train.shape import plan_of, shape_of
from schemas.errors import ConfigError, MismatchError
from schemas.training import TrainConfig


class Assembly(NamedTuple):
    """A model and the prompts that it understands."""

    model: OneTokenModel
    tokenizer: Tokenizer
    prompter: Prompter


def assemble(config: TrainConfig, encoder_width: int) -> Assembly:
    """A model to train, on the CPU: fresh, or begun from the checkpoint that `model.start_from` names.

    Raises:
        ConfigError: the language model or its tokenizer cannot be used.
        MismatchError: `start_from` is of another language model, width of features or shape; whether it read
            another encoder is for `check_start_encoder` to tell.
        NotFoundError: there is no checkpoint at `start_from`, or no weights at `init_from`.
        CorruptError: files of them changed or cannot be read.
    """
    if config.model.start_from is None:
        llm = load_language_model(config.model.llm, _loading_dtype(config))
        assembly = _put_together(llm, load_tokenizer(config.model.llm), config, encoder_width)
        if config.model.init_from is not None:
            start_from_foreign(assembly.model, Path(config.model.init_from))
        _adapt(assembly.model, config)
        return assembly
    start = open_checkpoint(Path(config.model.start_from))
    _check_start(start, config, encoder_width)
    assembly = _build_from_folder(start.folder, config, encoder_width)
    if start.config.model.lora is not None:
        _adapt(assembly.model, start.config)
    load_weights(assembly.model, start, ("llm", "projector") if start.state.stage == 1 else None)
    if start.state.stage == 1:
        assembly.model.copy_to_prefusion()
    if start.config.model.lora is None:
        _adapt(assembly.model, config)
    return assembly


def restore(checkpoint: Checkpoint, *, to_train: bool) -> Assembly:
    """The model of a checkpoint, on the CPU; not to train, all of it stands in the run's dtype."""
    assembly = _build_from_folder(
        checkpoint.folder, checkpoint.config, checkpoint.state.identity.encoder_width
    )
    _adapt(assembly.model, checkpoint.config)
    if to_train:
        load_weights(assembly.model, checkpoint)
        return assembly
    assembly.model.requires_grad_(False)
    if checkpoint.config.model.lora is None:
        cast_weights(assembly.model, dtype_of(checkpoint.config.run))
    load_weights(assembly.model, checkpoint)
    if checkpoint.config.model.lora is not None:
        fold_lora(assembly.model)
        cast_weights(assembly.model, dtype_of(checkpoint.config.run))
    return assembly


def load_prompter(config: TrainConfig, checkpoint: Checkpoint | None = None) -> tuple[Tokenizer, Prompter]:
    """The prompts of a run, without its model: as `assemble` and `restore` have them.

    Raises:
        ConfigError: the tokenizer or its chat template cannot be used.
        NotFoundError: there is no checkpoint at `start_from`.
    """
    start = checkpoint
    if start is None and config.model.start_from is not None:
        start = open_checkpoint(Path(config.model.start_from))
    tokenizer = load_tokenizer(config.model.llm if start is None else str(start.folder / "tokenizer"))
    return tokenizer, build_prompter(tokenizer, config.stage, config.model.template, config.data.max_tokens)


def load_language_model(name: str, dtype: torch.dtype) -> PreTrainedModel:
    """A pretrained causal language model, by name or folder.

    Raises:
        ConfigError: it cannot be loaded, lacks weights, is not built like Llama, or does what its parts do
            not show.
    """
    try:
        with quiet_transformers():
            loaded = cast(Any, AutoModelForCausalLM).from_pretrained(
                name, dtype=dtype, trust_remote_code=False, output_loading_info=True
            )
    except (OSError, ValueError) as error:
        raise ConfigError(f"`model.llm: {name}` cannot be loaded: {error}") from error
    llm, missing = cast(PreTrainedModel, loaded[0]), sorted(cast(set[str], loaded[1]["missing_keys"]))
    if missing:
        raise ConfigError(f"the files of `model.llm: {name}` lack weights: {', '.join(missing[:3])}")
    check_language_model(llm, name)
    return llm


def load_tokenizer(name: str) -> Tokenizer:
    """The tokenizer of a language model, by name or folder.

    Raises:
        ConfigError: it cannot be loaded, or is no fast one with an end-of-sequence token.
    """
    try:
        backend = cast(Any, AutoTokenizer).from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"the tokenizer of `model.llm: {name}` cannot be loaded: {error}") from error
    return Tokenizer(backend)


def _build_from_folder(folder: Path, config: TrainConfig, encoder_width: int) -> Assembly:
    """The model of a checkpoint's files, its weights still to be loaded."""
    llm_config = cast(Any, AutoConfig).from_pretrained(folder / "llm", trust_remote_code=False)
    with torch.random.fork_rng(devices=[]):  # pyright: ignore[reportUnknownMemberType]
        llm = cast(Any, AutoModelForCausalLM).from_config(llm_config, dtype=_loading_dtype(config))
    return _put_together(llm, load_tokenizer(str(folder / "tokenizer")), config, encoder_width)


def _put_together(
    llm: PreTrainedModel, tokenizer: Tokenizer, config: TrainConfig, encoder_width: int
) -> Assembly:
    num_rows, num_tokens = cast(Any, llm.get_input_embeddings()).weight.shape[0], len(tokenizer.backend)
    if num_rows < num_tokens:
        raise ConfigError(
            f"the tokenizer knows {num_tokens} tokens and `model.llm: {config.model.llm}` {num_rows}; use "
            "the tokenizer of that model"
        )
    prompter = build_prompter(tokenizer, config.stage, config.model.template, config.data.max_tokens)
    shape, plan = shape_of(config, encoder_width), plan_of(config)
    model = build_model(llm, shape, config.stage, seed=config.run.seed, plan=plan)
    cast_weights(model, dtype_of(config.run), trained_dtype_of(config))
    return Assembly(model, tokenizer, prompter)


def _adapt(model: OneTokenModel, config: TrainConfig) -> None:
    """Add the adapters that a configuration asks for, once the weights below them are there."""
    if config.model.lora is not None:
        add_lora(model, config.model.lora, config.run.seed)
        cast_weights(model, dtype_of(config.run), trained_dtype_of(config))


def _loading_dtype(config: TrainConfig) -> torch.dtype:
    """Stage 2 trains the language model; stage 1, and stage 2 with adapters, only read it."""
    is_read = config.stage == 1 or config.model.lora is not None
    return dtype_of(config.run) if is_read else trained_dtype_of(config)


def _check_start(start: Checkpoint, config: TrainConfig, encoder_width: int) -> None:
    there, here = start.config.model.llm, config.model.llm
    if there != here:
        raise MismatchError(f"{start.folder} was trained on `model.llm: {there}`, not {here}; name that one")
    theirs, ours = start.config.model.lora, config.model.lora
    if theirs is not None and theirs != ours:
        raise MismatchError(
            f"{start.folder} was trained with `model.lora: {theirs}`, not {ours}; write the same, or, "
            "of a Llama, fold its adapters with `onetoken export` and begin with `init_from`"
        )
    width = start.state.identity.encoder_width
    if width != encoder_width:
        raise MismatchError(
            f"{start.folder} reads features of width {width}, those of this spec have {encoder_width}; use "
            "features of the same encoder"
        )
    if config.stage < start.state.stage:
        raise ConfigError(
            f"stage 1 cannot start from {start.folder}, which is of stage 2; leave `start_from` out"
        )
