"""Configurations and tokenizers as Transformers 4 reads them, which the published code runs on.

Version 5 writes rotary positions, the dtype, a tokenizer's class and its merges under names and in forms that
4.43 does not know. It would miss the base of rotary positions without a word, and stop at the others. All of
them are written here in the older form, which version 5 reads, too.
"""

import json
from pathlib import Path
from typing import Any, cast

from operators.tokenizer import SENTENCEPIECE_FILE, Tokenizer
from schemas.errors import MismatchError

Json = dict[str, Any]


def older_config(config: Json, dtype: str) -> Json:
    """A language model's configuration with the older names beside the newer ones."""
    rope = dict(cast("Json", config["rope_parameters"]))
    theta, kind = rope.pop("rope_theta"), rope.pop("rope_type")
    older: Json = {"rope_theta": theta, "dtype": dtype, "torch_dtype": dtype}
    return config | older | ({} if kind == "default" else {"rope_scaling": {"rope_type": kind, **rope}})


def older_rules(tokenizer: Tokenizer) -> Json:
    """The content of `tokenizer.json` with merges spelled as two pieces and a space between.

    Raises:
        MismatchError: a piece has a space in it, which that spelling cannot say.
    """
    rules = cast("Json", json.loads(cast(Any, tokenizer.backend).backend_tokenizer.to_str()))
    merges = cast("list[str | list[str]]", rules["model"].get("merges", []))
    pairs = [pair for pair in merges if not isinstance(pair, str)]
    if any(" " in piece for pair in pairs for piece in pair):
        raise MismatchError(
            f"tokenizer {tokenizer.name!r} merges pieces with a space in them, which the published code's "
            "library cannot read; train a language model with another tokenizer, or keep the checkpoint"
        )
    if pairs:
        rules["model"]["merges"] = [pair if isinstance(pair, str) else " ".join(pair) for pair in merges]
    return rules


def write_older_tokenizer(tokenizer: Tokenizer, rules: Json, folder: Path) -> None:
    """A tokenizer's files, with `tokenizer.json` as `older_rules` gave it.

    Llama's class reads the SentencePiece file; where there is none, the class that reads `tokenizer.json` is
    named.
    """
    tokenizer.save(folder)
    (folder / "tokenizer.json").write_text(json.dumps(rules, ensure_ascii=False, indent=2) + "\n", "utf-8")
    path = folder / "tokenizer_config.json"
    config = cast("Json", json.loads(path.read_text("utf-8")))
    reads_pieces = config["tokenizer_class"] == "LlamaTokenizer" and (folder / SENTENCEPIECE_FILE).is_file()
    config["tokenizer_class"] = "LlamaTokenizer" if reads_pieces else "PreTrainedTokenizerFast"
    path.write_text(json.dumps(config, ensure_ascii=False, indent=2) + "\n", "utf-8")
