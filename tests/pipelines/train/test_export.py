"""What an exported folder says to Transformers 4, and which models it cannot say."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from tiny_models import ENCODER_WIDTH, tiny_llm
from tiny_spec import tiny_spec
from tiny_training import CHATML, tiny_tokenizer
from tokenizers import Tokenizer as Backend
from tokenizers import models
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from operators.chat_prompt import build_prompter
from operators.tokenizer import Tokenizer
from pipelines.train.assembly import Assembly, load_tokenizer
from pipelines.train.export import export_model
from pipelines.train.model import build_model
from pipelines.train.older_library import older_rules
from pipelines.train.published import published_weights
from pipelines.train.shape import ModelShape, Stage
from schemas.errors import MismatchError
from schemas.feature import FeatureSpec
from schemas.reducer import ReducerConfig

SPEC = tiny_spec(576, ENCODER_WIDTH)
SIZES = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
LLAMA_3_1 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def assembly_of(
    llm: PreTrainedModel | None = None, stage: Stage = 2, tokenizer: Tokenizer | None = None, **shape: Any
) -> Assembly:
    sizes = {"num_prefusion_layers": 1, "num_compressor_heads": 2} | shape
    model = build_model(llm or tiny_llm(), ModelShape(encoder_width=ENCODER_WIDTH, **sizes), stage)
    own = tokenizer or Tokenizer(tiny_tokenizer())
    return Assembly(model, own, build_prompter(own, stage, "own", 100))


def export(assembly: Assembly, folder: Path, spec: FeatureSpec = SPEC) -> dict[str, Any]:
    return json.loads((export_model(assembly, spec, "openai/clip", folder) / "config.json").read_text())


@pytest.mark.parametrize(
    ("rope", "theta", "scaling"),
    [
        ({"rope_theta": 500000.0, **LLAMA_3_1}, 500000.0, LLAMA_3_1),
        ({"rope_theta": 10000.0, "rope_type": "default"}, 10000.0, None),
        (
            {"rope_theta": 1e4, "rope_type": "linear", "factor": 2.0},
            1e4,
            {"rope_type": "linear", "factor": 2.0},
        ),
    ],
    ids=["llama-3.1", "vicuna", "vicuna-16k"],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rotary_positions_are_said_as_before(
    tmp_path: Path, rope: dict[str, Any], theta: float, scaling: dict[str, Any] | None, dtype: str
) -> None:
    llm = LlamaForCausalLM(LlamaConfig(**SIZES, rope_parameters=rope)).to(getattr(torch, dtype))
    config = export(assembly_of(llm), tmp_path / "out")
    assert (config["rope_theta"], config.get("rope_scaling")) == (theta, scaling)
    assert config["torch_dtype"] == config["dtype"] == dtype
    older = {name: value for name, value in config.items() if name not in ("rope_parameters", "dtype")}
    for again in (LlamaConfig(**older), LlamaConfig(**config)):
        assert again.rope_parameters == llm.config.rope_parameters
        assert again.dtype is getattr(torch, dtype)


def test_weights_say_whose_they_are(tmp_path: Path) -> None:
    """Transformers 4 reads no safetensors without that."""
    export(assembly_of(), tmp_path / "out")
    with safe_open(tmp_path / "out/model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize(
    ("stage", "shape", "name"),
    [
        (1, {}, "LlavaLlamaForCausalLM"),
        (2, {"reducer": ReducerConfig(name="all"), "num_prefusion_layers": 0}, "LlavaLlamaForCausalLM"),
        (2, {"num_prefusion_layers": 0}, "LlavaMiniLlamaForCausalLM"),
        (2, {"grid": 2}, "LlavaMiniLlamaForCausalLM"),
    ],
)
def test_a_layout_is_named_by_its_compressor(
    tmp_path: Path, stage: Stage, shape: dict[str, Any], name: str
) -> None:
    assembly = assembly_of(stage=stage, **shape)
    config = export(assembly, tmp_path / "out")
    is_mini = "Mini" in name
    assert config["architectures"] == [name]
    assert config["model_type"] == ("llava_mini" if is_mini else "llava_llama")
    assert config.get("compressor_size") == (shape.get("grid", 1) if is_mini else None)
    assert config.get("prefusion_layer_num") == (shape.get("num_prefusion_layers", 1) if is_mini else None)
    fusion = {key.split(".")[2] for key in published_weights(assembly.model) if "prefusion_layers" in key}
    assert len(fusion) == config.get("prefusion_layer_num", 0)


def qwen2() -> PreTrainedModel:
    return Qwen2ForCausalLM(Qwen2Config(**SIZES))


def wide_heads() -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**SIZES, head_dim=16))


NO_FUSION = {"num_prefusion_layers": 0}


@pytest.mark.parametrize(
    ("build", "stage", "shape", "words"),
    [
        (tiny_llm, 2, {"positions": "native"}, "`model.positions: native`: .* `positions: published`"),
        (qwen2, 2, {}, "kind qwen2: .*biases of q, k and v.* train a Llama"),
        (qwen2, 1, {}, "kind qwen2"),
        (wide_heads, 2, {}, "4 heads of 16 read a width of 32"),
        (tiny_llm, 2, {"reducer": ReducerConfig(name="average")}, "`model.reducer: average`; train with"),
        (tiny_llm, 2, {"reducer": ReducerConfig(name="average")} | NO_FUSION, "`model.reducer: average`"),
        (tiny_llm, 1, {"reducer": ReducerConfig(name="spatial")}, "`model.reducer: spatial`"),
        (tiny_llm, 2, {"reducer": ReducerConfig(name="qformer", layers=1)}, "`model.reducer: qformer`"),
        (tiny_llm, 2, {"reducer": ReducerConfig(name="prumerge")} | NO_FUSION, "`model.reducer: prumerge`"),
        (tiny_llm, 2, {"reducer": ReducerConfig(name="all")}, "pre-fusion beside `model.reducer: all`"),
    ],
)
def test_what_the_published_code_cannot_say_is_refused(
    tmp_path: Path, build: Any, stage: Stage, shape: dict[str, Any], words: str
) -> None:
    with pytest.raises(MismatchError, match=f"{words}.*keep the checkpoint"):
        export(assembly_of(build(), stage, **shape), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_reduced_cache_cannot_be_said(tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"reducer": ReducerConfig(name="spatial")})
    assembly = assembly_of(reducer=ReducerConfig(name="all"), num_prefusion_layers=0)
    with pytest.raises(MismatchError, match="spatial reduced the features before they were cached"):
        export(assembly, tmp_path / "out", spec)


def piece_tokenizer(folder: Path) -> Path:
    """Llama's class with two merges, as a release has it: `tokenizer.json` and the SentencePiece file."""
    pieces = ["<unk>", "<s>", "</s>", "▁", "r", "e", "d", "re", "▁re"]
    merges = [("r", "e"), ("▁", "re")]
    tokenizer = LlamaTokenizer(vocab={piece: at for at, piece in enumerate(pieces)}, merges=merges)
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    (folder / "tokenizer.model").write_bytes(b"pieces")
    return folder


def test_a_sentencepiece_file_goes_along(tmp_path: Path) -> None:
    """Through a checkpoint, too, though the one that it was read from is gone."""
    first = load_tokenizer(str(piece_tokenizer(tmp_path / "release")))
    first.save(tmp_path / "checkpoint")
    second = load_tokenizer(str(tmp_path / "checkpoint"))
    (tmp_path / "checkpoint/tokenizer.model").unlink()
    export(assembly_of(tokenizer=second), tmp_path / "out")
    assert (tmp_path / "out/tokenizer.model").read_bytes() == b"pieces"
    assert class_of(tmp_path / "out") == "LlamaTokenizer"
    assert merges_of(tmp_path / "out") == ["r e", "▁ re"]
    again = load_tokenizer(str(tmp_path / "out"))
    assert again.encode("red reed") == first.encode("red reed")
    assert again.digest == first.digest == second.digest


def test_without_one_the_rules_are_read(tmp_path: Path) -> None:
    folder = piece_tokenizer(tmp_path / "release")
    (folder / "tokenizer.model").unlink()
    tokenizer = load_tokenizer(str(folder))
    export(assembly_of(tokenizer=tokenizer), tmp_path / "pieces")
    assert not (tmp_path / "pieces/tokenizer.model").exists()
    assert class_of(tmp_path / "pieces") == "PreTrainedTokenizerFast"
    again = AutoTokenizer.from_pretrained(tmp_path / "pieces")
    assert Tokenizer(again).encode("red reed") == tokenizer.encode("red reed")
    export(assembly_of(), tmp_path / "bytes")
    assert class_of(tmp_path / "bytes") == "PreTrainedTokenizerFast"


def test_a_piece_with_a_space_cannot_be_said() -> None:
    backend = Backend(models.BPE(vocab={"</s>": 0, "a": 1, " ": 2, "a ": 3}, merges=[("a", " ")]))
    tokenizer = Tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>"))
    with pytest.raises(MismatchError, match="merges pieces with a space"):
        older_rules(tokenizer)


def class_of(folder: Path) -> str:
    return json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"]


def merges_of(folder: Path) -> list[str]:
    return json.loads((folder / "tokenizer.json").read_text())["model"]["merges"]
